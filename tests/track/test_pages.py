import json
from pathlib import Path

import pytest
from PIL import Image

from medkd.study import digest
from medkd.track.ledger import LEDGER_FILE
from medkd.track.mlflow import sync
from medkd.track.pages import NOTE_TAG, OURS_TAG, experiment_note, new_note, plain, table_tag

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture
def picture(folder):
    path = folder / "previews" / "a.png"
    path.parent.mkdir()
    Image.new("RGB", (600, 300), "red").save(path)
    return path


def pictures(client, run):
    return sorted(Path(f.path).name for f in client.list_artifacts(run.info.run_id, "images"))


def test_a_picture_is_named_as_mlflow_names_it_and_shown_once(
    journal, folder, picture, uri, stored
):
    student = journal.run("student")
    student.image(picture.relative_to(folder), name="fold-0/validation", step=30)
    for _ in range(2):
        assert sync(folder, uri=uri).pending == 0
        (folder / LEDGER_FILE).unlink()
    client, runs = stored(uri)
    run = runs["student"]
    assert run.data.tags["mlflow.loggedImages"] == "true"
    ours = pictures(client, run)
    # beside what MLflow itself writes
    theirs = client.create_run(run.info.experiment_id)
    with Image.open(picture) as image:
        client.log_image(theirs.info.run_id, image, key="fold-0/validation", step=30)
    expected = pictures(client, theirs)

    def parts(names):
        return [[p for i, p in enumerate(name.split("+")) if i not in {4, 5}] for name in names]

    assert [name.count("+") for name in ours] == [name.count("+") for name in expected]
    assert parts(ours) == parts(expected)
    (name,) = (name for name in ours if name.endswith(".png"))
    sent = client.download_artifacts(run.info.run_id, f"images/{name}")
    assert Path(sent).read_bytes() == picture.read_bytes()


def test_the_experiment_tells_the_verdict_of_each_study(journal, folder, uri, stored):
    def note():
        client, runs = stored(uri)
        return client.get_experiment(runs["study"].info.experiment_id).tags[NOTE_TAG]

    sync(folder, uri=uri)
    assert "- demo: **no verdict yet**" in note()
    journal.run("study").tags({"medkd.verdict": "NOT READY"})
    sync(folder, uri=uri)
    assert "- demo: **NOT READY**" in note()
    assert note() == experiment_note([("demo", "NOT READY")])


def test_a_note_that_people_wrote_stays(journal, folder, uri, stored):
    sync(folder, uri=uri)
    client, runs = stored(uri)
    experiment = runs["study"].info.experiment_id
    client.set_experiment_tag(experiment, NOTE_TAG, "ours")
    journal.run("study").tags({"medkd.verdict": "NOT READY"})
    sync(folder, uri=uri)
    assert client.get_experiment(experiment).tags[NOTE_TAG] == "ours"


def test_a_note_is_written_where_it_is_new_and_ours():
    new = {OURS_TAG: digest("b"), NOTE_TAG: "b"}
    assert new_note("b", {}) == new
    assert new_note("b", {NOTE_TAG: "a", OURS_TAG: digest("a")}) == new
    assert new_note("b", new) == {}
    assert new_note("b", {NOTE_TAG: "a"}) == {}


def test_tables_are_named_in_the_tag_that_mlflow_reads():
    (value,) = table_tag("cases.json").values()
    assert json.loads(value) == [{"path": "cases.json", "type": "table"}]


@pytest.mark.parametrize(
    "text", ["<img src=x onerror=alert(1)>", "![a](http://x/y.png)", "[a](javascript:b)", "a\n# b"]
)
def test_plain_text_is_a_line_without_markup(text):
    for sign in "<>[]()!#":
        assert plain(text).count(sign) == plain(text).count(f"\\{sign}")
    assert "\n" not in plain(text)
