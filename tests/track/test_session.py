import pytest

from medkd.results import read_report
from medkd.track import session
from medkd.track.journal import read
from medkd.track.mirror import Mirror
from medkd.track.session import Runs, tracked
from medkd.track.story import describe, final_figures


class Unplugged(Mirror):
    """A mirror that is not there: these tests are about the journal."""

    def __init__(self, folder):
        self.said = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def pause(self):
        self.said.append("pause")

    def resume(self):
        self.said.append("resume")


@pytest.fixture
def study(make_study, monkeypatch):
    monkeypatch.setattr(session, "Mirror", Unplugged)
    return make_study()[0]


def statuses(study):
    events = [event for event, _ in read(study.folder / "journal.jsonl")]
    return [(e["run"], e["values"]["status"]) for e in events if e["kind"] == "status"]


def test_the_status_at_the_end_is_the_true_one(study):
    with tracked(study) as runs:
        runs["teacher"].metrics({"loss": 1.0}, step=1)
    assert statuses(study)[-2:] == [("study", "FINISHED"), ("teacher", "FINISHED")]

    with pytest.raises(ValueError, match="boom"), tracked(study):
        raise ValueError("boom")
    assert statuses(study)[-1] == ("study", "FAILED")

    with pytest.raises(SystemExit), tracked(study):
        raise SystemExit(143)
    assert statuses(study)[-1] == ("study", "KILLED")


def test_a_role_that_has_finished_keeps_its_end(study):
    def killed_in_the_second(runs):
        runs["teacher"].status("FINISHED")
        runs["baseline"].metrics({"loss": 1.0}, step=1)
        raise SystemExit(143)

    with pytest.raises(SystemExit), tracked(study) as runs:
        killed_in_the_second(runs)
    assert statuses(study)[-3:] == [
        ("baseline", "RUNNING"),
        ("study", "KILLED"),
        ("baseline", "KILLED"),
    ]


def test_a_role_that_never_began_has_no_status(study):
    with tracked(study) as runs:
        runs["teacher"].metrics({"loss": 1.0}, step=1)
    assert "baseline" not in {run for run, _ in statuses(study)}


def test_the_mirror_is_quiet_while_something_is_timed(study):
    with tracked(study) as runs:
        with runs.quiet():
            assert runs._mirror.said == ["pause"]
        assert runs._mirror.said == ["pause", "resume"]


def test_results_reach_every_role(study, report):
    with tracked(study) as runs:
        runs.results(report)
    events = [event for event, _ in read(study.folder / "journal.jsonl")]
    for role in report.roles:
        figures = [e["values"] for e in events if e["run"] == role and e["kind"] == "metrics"]
        assert figures == [final_figures(report.roles[role], report.classes)]
    notes = [e["values"] for e in events if e["run"] == "study" and e["kind"] == "tags"]
    assert any(note.get("mlflow.note.content") == describe(report) for note in notes)


def test_results_come_on_top_of_a_role_that_has_finished_and_are_told_once(study, report):
    with tracked(study) as runs:
        runs["teacher"].status("FINISHED")
        runs.results(report)
    told = statuses(study)
    assert [status for run, status in told if run == "teacher"] == ["RUNNING", "FINISHED"]

    def kinds():
        events = [event for event, _ in read(study.folder / "journal.jsonl")]
        return [e["kind"] for e in events if e["kind"] in {"metrics", "dataset"}]

    before = kinds()
    with tracked(study) as runs:
        runs.results(report)
    assert kinds() == before
    with tracked(study) as runs:
        runs.results(report.model_copy(update={"test_openings": 2}))
    assert kinds() == 2 * before


@pytest.mark.parametrize("card", [None, {"name": "Balls"}])
def test_data_are_named_by_their_card_and_told_whole_and_by_part(study, report, card):
    with tracked(study) as runs:
        runs.results(report.model_copy(update={"card": card}))
    events = [event for event, _ in read(study.folder / "journal.jsonl")]
    told = [e["values"] | {"run": e["run"]} for e in events if e["kind"] == "dataset"]
    assert {values["name"] for values in told} == {"Balls" if card else "cases"}
    of_study = {v["context"]: v["digest"] for v in told if v["run"] == "study"}
    parts = {name: part.digest for name, part in report.split.items()}
    assert of_study == parts | {"all": report.digests["data set"]}
    assert [v["context"] for v in told if v["run"] == "teacher"] == ["test"]


@pytest.fixture(scope="module")
def report(released):
    from medkd.evaluate.run import evaluate

    study, cohort = released
    evaluate(study, cohort)
    return read_report(study.folder / "report.json")


def test_what_was_killed_by_force_is_said_to_be_killed_at_the_next_start(study):
    Runs(study, Unplugged(study.folder))["baseline"].metrics({"loss": 1.0}, step=1)
    with tracked(study) as runs:
        runs["teacher"].status("FINISHED")
    told = statuses(study)
    assert [status for run, status in told if run == "baseline"] == ["RUNNING", "KILLED"]
    assert told[-1] == ("study", "FINISHED")
