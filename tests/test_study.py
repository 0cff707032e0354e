import json
import multiprocessing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.config import load
from medkd.errors import StudyError
from medkd.study import Study, digest, write_atomic
from medkd.types import Split

SPLIT = Split(train=("a", "b"), validation=("c",), test=("d",))


@pytest.fixture
def study(make_config):
    path = make_config()
    study = Study(load(path), config_path=path)
    study.begin(SPLIT)
    return study


def never(folder):
    raise AssertionError(f"{folder} was made again")


def test_the_resolved_config_lies_in_the_study(study):
    assert load(study.folder / "config.yaml") == study.config


def test_the_split_lies_in_the_study(study):
    split = json.loads((study.folder / "split.json").read_text())
    assert split == {"train": ["a", "b"], "validation": ["c"], "test": ["d"]}


def test_another_split_is_refused_once_a_teacher_was_trained_on_the_first(study):
    other = Split(train=("a",), validation=("b",), test=("c", "d"))
    study.begin(other)
    study.path("teacher").mkdir()
    with pytest.raises(StudyError, match="made with another split of the cases"):
        study.begin(SPLIT)
    assert json.loads((study.folder / "split.json").read_text())["test"] == ["c", "d"]


def test_the_folds_lie_beside_the_split_and_others_are_refused_once_there_is_a_teacher(study):
    study.begin(SPLIT, folds=[["a", "b"]])
    assert "folds" not in json.loads((study.folder / "split.json").read_text())
    study.begin(SPLIT, folds=[["b"], ["a"]])
    study.begin(SPLIT, folds=[["a"], ["b"]])
    assert json.loads((study.folder / "split.json").read_text())["folds"] == [["a"], ["b"]]
    study.path("teacher").mkdir()
    study.begin(SPLIT, folds=[["a"], ["b"]])
    for other in ([["b"], ["a"]], []):
        with pytest.raises(StudyError, match=r"another split of the cases \(folds of split.json"):
            study.begin(SPLIT, folds=other)


def test_a_stage_of_another_version_is_refused(study):
    study.stage("a", inputs={"x": 1}, make=lambda _: None)
    (study.path("a") / "stage.json").write_text('{"x": "0123"}')
    with pytest.raises(StudyError, match="made by another version of medkd"):
        study.stage("a", inputs={"x": 1}, make=never)


def test_a_complete_stage_is_not_made_again(study):
    def make(folder):
        (folder / "a").write_text("1")

    folder = study.stage("a", inputs={"x": 1}, make=make)
    assert folder == study.path("a")
    assert study.stage("a", inputs={"x": 1}, make=never) == folder
    assert (folder / "a").read_text() == "1"


def test_a_stage_that_fails_leaves_nothing_complete_and_resumes_from_what_it_wrote(study):
    def fail(folder):
        (folder / "part").write_text("1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.stage("a", inputs={"x": 1}, make=fail)
    assert not study.is_complete("a")
    assert not study.path("a").exists()

    found = []
    study.stage("a", inputs={"x": 1}, make=lambda folder: found.extend(folder.glob("part")))
    assert [path.name for path in found] == ["part"]
    assert study.is_complete("a")


def test_an_unfinished_stage_of_other_inputs_is_not_resumed(study):
    def fail(folder):
        (folder / "part").write_text("1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.stage("a", inputs={"x": 1}, make=fail)
    study.stage("a", inputs={"x": 2}, make=lambda _: None)
    assert not (study.path("a") / "part").exists()


@pytest.mark.parametrize("inputs", [{"seed": 2, "model": "m"}, {"model": "m"}])
def test_a_complete_stage_of_other_inputs_is_refused_with_their_names(study, inputs):
    study.stage("a", inputs={"seed": 1, "model": "m"}, make=lambda _: None)
    with pytest.raises(StudyError, match="made before seed changed; delete this folder to redo"):
        study.stage("a", inputs=inputs, make=never)


def test_the_digest_of_a_stage_is_that_of_its_files(study):
    with pytest.raises(StudyError, match="has not been run yet"):
        study.stage_digest("teacher/fold-0")

    def write(text, name="weights"):
        return lambda folder: (folder / name).write_text(text)

    study.stage("a", inputs={"x": 1}, make=write("1"))
    study.stage("b", inputs={"x": 2}, make=write("1"))
    study.stage("redone", inputs={"x": 1}, make=write("2"))
    study.stage("renamed", inputs={"x": 1}, make=write("1", name="other"))
    first = study.stage_digest("a")
    assert study.stage_digest("b") == first
    assert first not in {study.stage_digest("redone"), study.stage_digest("renamed")}


@pytest.mark.parametrize(
    ("stage", "command"),
    [
        ("teacher/fold-0", "train {} --role teacher"),
        ("teacher/external-0", "train {} --role teacher"),
        ("soft_targets", "soften {}"),
        ("baseline", "train {} --role baseline"),
        ("student", "distill {}"),
        ("releases/student", "export {}"),
    ],
)
def test_a_stage_that_is_not_there_is_told_with_the_command_that_makes_it(study, stage, command):
    with pytest.raises(StudyError) as caught:
        study.stage_digest(stage)
    remedy = command.format(study.config_path)
    assert str(caught.value).endswith(
        f"{stage}: this stage has not been run yet; run medkd {remedy}"
    )


def test_a_config_that_no_finished_stage_was_made_by_is_not_the_study_s(study):
    study.stage("a", inputs={"seed": 1}, make=lambda _: None)
    before = (study.folder / "config.yaml").read_text()
    seeded = study.config.study.model_copy(update={"seed": 2})
    other = Study(study.config.model_copy(update={"study": seeded}), study.config_path)
    with pytest.raises(StudyError, match="made before seed changed"), other.hold(SPLIT):
        other.stage("a", inputs={"seed": 2}, make=lambda _: None)
    assert (study.folder / "config.yaml").read_text() == before
    with other.hold(SPLIT):
        other.stage("b", inputs={"seed": 2}, make=lambda _: None)
    assert load(study.folder / "config.yaml") == other.config


def _hold(study, held, release):
    with study.lock():
        held.set()
        release.wait(30)


def test_a_second_process_is_refused(study):
    processes = multiprocessing.get_context("fork")
    held, release = processes.Event(), processes.Event()
    other = processes.Process(target=_hold, args=(study, held, release))
    other.start()
    try:
        assert held.wait(30)
        message = rf"another process works on this study \(pid {other.pid}\); wait"
        for _ in range(2):
            with pytest.raises(StudyError, match=message), study.lock():
                pass
    finally:
        release.set()
        other.join()
    with study.lock():
        pass


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, "old")
    with pytest.raises(TypeError):
        write_atomic(path, 3)
    assert path.read_text() == "old"
    write_atomic(path, b"new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=30)
@given(JSON, JSON)
def test_digests_agree_exactly_where_values_do(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (digest(one) == digest(other)) == same


def test_the_order_of_keys_changes_no_digest():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest("a", "b") != digest("ab")
