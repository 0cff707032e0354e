import json
import logging
import math
import shutil
import socket
import threading
from pathlib import Path, PurePath

import pytest

from medkd.errors import ConfigError, StudyError
from medkd.study import digest
from medkd.track.journal import Journal
from medkd.track.ledger import LEDGER_FILE
from medkd.track.mlflow import SyncReport, default_uri, sync, ui_command, views

# MLflow 3.17 over SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture
def student(journal):
    return journal.run("student")


def points(client, run, name):
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]


def test_a_whole_study_arrives(journal, folder, student, uri, stored):
    (folder / "report.html").write_text("<p>ready</p>")
    (folder / "worst").mkdir()
    (folder / "worst" / "1.png").write_bytes(b"png")
    journal.run("study").artifact(PurePath("report.html"))
    journal.run("teacher").status("FINISHED")
    student.params({"lr": 0.1})
    student.metrics({"loss": 1.0, "dice/left (%)": 0.5}, step=1)
    student.metrics({"loss": 0.5}, step=2)
    student.artifact(PurePath("worst"), folder="overlays/worst")
    student.dataset("phantom", digest="a" * 64, context="training")
    student.tags({"arm": "b"})
    student.status("FAILED")

    assert sync(folder, uri=uri) == SyncReport(sent=10, pending=0)

    client, runs = stored(uri)
    assert set(runs) == {"study", "teacher", "student"}
    parent, nested = runs["study"], runs["student"]
    experiment = client.get_experiment(parent.info.experiment_id)
    assert experiment.name == "medkd/demo"
    assert (parent.info.run_name, nested.info.run_name) == ("demo", "demo student")
    assert parent.data.tags["mlflow.note.content"] == "# Demo"
    assert nested.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert nested.data.tags["arm"] == "b"
    assert nested.data.params == {"lr": "0.1"}
    assert points(client, nested, "loss") == [(1, 1.0), (2, 0.5)]
    assert points(client, nested, "dice/left ___") == [(1, 0.5)]
    assert [runs[role].info.status for role in ("study", "teacher", "student")] == [
        "RUNNING",
        "FINISHED",
        "FAILED",
    ]
    assert nested.info.end_time >= nested.info.start_time
    (dataset,) = nested.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("phantom", "a" * 36)
    assert [(tag.key, tag.value) for tag in dataset.tags] == [("mlflow.data.context", "training")]
    page = Path(client.download_artifacts(parent.info.run_id, "report.html"))
    assert page.read_text() == "<p>ready</p>"
    (picture,) = client.list_artifacts(nested.info.run_id, "overlays/worst")
    assert picture.path == "overlays/worst/1.png"


def test_sending_again_changes_nothing(folder, student, uri, stored):
    student.params({"lr": 0.1})
    student.dataset("phantom", digest="abc", context="training")
    for step in range(3):
        student.metrics({"loss": 1.0}, step=step)
    student.status("FINISHED")

    def state():
        client, runs = stored(uri)
        run = runs["student"]
        histories = [m.to_dictionary() for m in client.get_metric_history(run.info.run_id, "loss")]
        inputs = [i.to_dictionary() for i in run.inputs.dataset_inputs]
        return run.info.run_id, run.info.end_time, run.data.params, histories, inputs

    assert sync(folder, uri=uri).sent == 7
    once = state()
    assert sync(folder, uri=uri) == sync(folder, uri=uri) == SyncReport(sent=0, pending=0)
    assert state() == once
    (folder / LEDGER_FILE).unlink()
    assert sync(folder, uri=uri) == SyncReport(sent=7, pending=0)
    assert state() == once
    student.metrics({"loss": 1.0}, step=3)
    assert sync(folder, uri=uri) == SyncReport(sent=1, pending=0)
    assert len(state()[3]) == 4


def test_a_run_that_was_deleted_is_made_again(folder, student, uri, stored):
    student.metrics({"loss": 1.0}, step=1)
    sync(folder, uri=uri)
    client, runs = stored(uri)
    client.delete_run(runs["student"].info.run_id)
    assert sync(folder, uri=uri) == SyncReport(sent=2, pending=0)
    assert points(client, stored(uri)[1]["student"], "loss") == [(1, 1.0)]


def test_an_experiment_that_was_deleted_is_restored(folder, student, uri, stored):
    sync(folder, uri=uri)
    client, runs = stored(uri)
    client.delete_experiment(runs["study"].info.experiment_id)
    student.status("RUNNING")
    assert sync(folder, uri=uri).pending == 0
    assert stored(uri)[1]["study"].info.run_id == runs["study"].info.run_id
    assert "student" in stored(uri)[1]


def test_a_new_database_in_the_place_of_the_old_is_filled(
    folder, student, uri, stored, empty_store, tmp_path
):
    student.status("RUNNING")
    sync(folder, uri=uri)
    link = tmp_path / "other.db"
    shutil.copy(empty_store, link)
    ledger = json.loads((folder / LEDGER_FILE).read_text())
    other = f"sqlite:///{link}"
    (folder / LEDGER_FILE).write_text(json.dumps({digest(other): ledger[digest(uri)]}))
    assert sync(folder, uri=other) == SyncReport(sent=2, pending=0)
    assert set(stored(other)[1]) == {"study", "student"}


def test_two_syncs_at_once_make_one_run(folder, student, uri, stored):
    student.metrics({"loss": 1.0}, step=1)
    threads = [threading.Thread(target=sync, args=(folder,), kwargs={"uri": uri}) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client, runs = stored(uri)
    assert points(client, runs["student"], "loss") == [(1, 1.0)]


def test_two_studies_of_one_name_share_an_experiment(folder, tmp_path, uri):
    import mlflow

    other = Journal(tmp_path / "again" / "demo" / "journal.jsonl").path.parent
    assert sync(folder, uri=uri).pending == sync(other, uri=uri).pending == 0
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("medkd/demo")
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_what_is_no_number_never_arrives(folder, student, uri, stored):
    for step, value in enumerate([math.nan, math.inf, -math.inf, 0.5]):
        student.metrics({"loss": value}, step=step)
    sync(folder, uri=uri)
    client, runs = stored(uri)
    assert points(client, runs["student"], "loss") == [(3, 0.5)]


def test_a_parameter_that_changed_goes_into_a_tag_and_stops_nothing(folder, student, uri, stored):
    student.params({"lr": 0.1})
    sync(folder, uri=uri)
    student.params({"lr": 0.2, "batch": 4})
    student.metrics({"loss": 1.0}, step=1)
    assert sync(folder, uri=uri).pending == 0
    client, runs = stored(uri)
    assert runs["student"].data.params == {"lr": "0.1", "batch": "4"}
    assert runs["student"].data.tags["medkd.changed.lr"] == "0.2"
    assert points(client, runs["student"], "loss") == [(1, 1.0)]


def test_a_resumed_run_runs_again(folder, student, uri, stored):
    student.status("KILLED")
    sync(folder, uri=uri)
    assert stored(uri)[1]["student"].info.status == "KILLED"
    student.status("RUNNING")
    sync(folder, uri=uri)
    assert stored(uri)[1]["student"].info.status == "RUNNING"


def test_names_and_values_beyond_the_limits_arrive_cut(folder, student, uri, stored):
    student.params({f"p{i}": "é" * 9000 for i in range(150)} | {"../a//b:c": 1, "k" * 300: 1})
    student.tags({f"t{i}": "x" * 9000 for i in range(150)})
    student.metrics({f"m{i}": float(i) for i in range(2500)}, step=1)
    assert sync(folder, uri=uri).pending == 0
    data = stored(uri)[1]["student"].data
    assert len(data.params) == 152
    assert data.params["p0"] == "é" * 5999 + "…"
    assert {"a/b_c", "k" * 250} <= set(data.params)
    assert len(data.tags["t149"]) == 8000
    assert len(data.metrics) == 2500


def test_files_that_are_gone_or_outside_the_study_are_not_sent(
    folder, student, uri, stored, caplog
):
    (folder / "a.txt").write_text("a")
    (folder.parent / "secret.txt").write_text("s")
    (folder / "out").symlink_to(folder.parent)
    student.artifact(PurePath("../secret.txt"))
    student.artifact(PurePath("out/secret.txt"))
    student.artifact(PurePath("gone.txt"))
    student.artifact(PurePath("a.txt"), folder="../good")
    with caplog.at_level(logging.WARNING):
        assert sync(folder, uri=uri).pending == 0
    client, runs = stored(uri)
    assert [f.path for f in client.list_artifacts(runs["student"].info.run_id)] == ["good"]
    assert caplog.text.count("not sent") == 3


def test_what_a_store_refuses_is_left_out_with_a_warning(
    folder, journal, student, uri, stored, caplog
):
    student.dataset("x" * 600, digest="abc", context="training")
    metrics = {f"m{i}": float(i) for i in range(50)} | {"bad": "a word"}
    journal.append("student", "metrics", metrics, step=1)
    with caplog.at_level(logging.WARNING):
        assert sync(folder, uri=uri).pending == 0
    assert len(stored(uri)[1]["student"].data.metrics) == 50
    assert caplog.text.count("refuses") == 2


def test_nobody_is_named(folder, student, uri, stored):
    student.tags({"mlflow.user": "jane", "mlflow.source.name": "/home/jane/x.py", "ok": "1"})
    sync(folder, uri=uri)
    for run in stored(uri)[1].values():
        leaks = [k for k in run.data.tags if k.startswith(("mlflow.user", "mlflow.source"))]
        assert leaks == []
        assert run.info.user_id in ("", "unknown")


def test_artifacts_lie_beside_the_database(folder, uri, stored, tmp_path):
    sync(folder, uri=uri)
    parent = stored(uri)[1]["study"]
    assert parent.info.artifact_uri.startswith((tmp_path / "mlartifacts").as_uri())


def test_an_absent_server_leaves_everything_pending(folder, student, absent, uri):
    student.metrics({"loss": 1.0}, step=1)
    report = sync(folder, uri=absent)
    assert (report.sent, report.pending) == (0, 2)
    assert "MlflowException" in report.problem
    assert "secret" not in report.problem
    assert sync(folder, uri=uri) == SyncReport(sent=2, pending=0)


def test_a_torn_line_is_sent_once_it_is_followed(folder, journal, student, uri, stored):
    with journal.path.open("ab") as file:
        file.write(b'{"run": "student", "kind": "met')
    assert sync(folder, uri=uri) == SyncReport(sent=1, pending=0)
    student.metrics({"loss": 1.0}, step=1)
    assert sync(folder, uri=uri) == SyncReport(sent=1, pending=0)
    assert "student" in stored(uri)[1]


def test_a_folder_that_is_no_study_is_refused(tmp_path, uri):
    with pytest.raises(StudyError, match="no journal here"):
        sync(tmp_path, uri=uri)
    event = {"run": "student", "kind": "status", "time_ms": 1, "values": {"status": "RUNNING"}}
    (tmp_path / "journal.jsonl").write_text(json.dumps(event) + "\n")
    with pytest.raises(StudyError, match="does not begin with its study"):
        sync(tmp_path, uri=uri)


def test_the_store_is_the_users_or_beside_them(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert default_uri() == "http://host:5000"


def test_an_experiment_has_a_view_that_ranks_models(folder, student, uri, stored):
    student.metrics({"final/dice": 0.9}, step=0)
    sync(folder, uri=uri)
    ((name, path),) = views(uri).items()
    assert name.startswith("medkd/")
    client, _ = stored(uri)
    experiment = client.get_experiment_by_name(name)
    assert f"/{experiment.experiment_id}/" in path
    assert "workflowType=machine_learning" in path, "else MLflow shows its pages of language models"
    key = path.partition("viewStateShareKey=")[2]
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])
    assert view["orderByKey"] == "metrics.`final/dice`"
    assert view["orderByKey"] in view["selectedColumns"]
    assert "metrics.`final/latency_p50_ms`" in view["selectedColumns"]
    sections = {section["uuid"] for section in view["compareRunSections"]}
    bar, scatter, parallel = view["compareRunCharts"]
    assert {chart["metricSectionId"] for chart in (bar, scatter, parallel)} == sections
    assert bar["metricKey"] == scatter["yaxis"]["key"] == "final/dice"
    assert parallel["selectedMetrics"] == ["final/dice"]
    assert view["isDirty"]


def test_the_ui_is_for_local_stores(port):
    assert ui_command("sqlite:////x/mlflow.db", port=port)[1:] == [
        *("-m", "mlflow", "ui", "--backend-store-uri"),
        *("sqlite:////x/mlflow.db", "--port", str(port)),
    ]
    with pytest.raises(ConfigError, match="open http://host:5000 in") as caught:
        ui_command("http://me:secret@host:5000", port=port)
    assert "secret" not in str(caught.value)


def test_the_ui_says_when_its_port_is_taken(port):
    message = f"--port {port}: Address already in use; choose"
    with socket.create_server(("127.0.0.1", port)), pytest.raises(ConfigError, match=message):
        ui_command("sqlite:////x/mlflow.db", port=port)
    ui_command("sqlite:////x/mlflow.db", port=port)


@pytest.mark.slow
def test_a_server_that_comes_later_gets_everything(folder, student, port, serve, stored):
    (folder / "a.txt").write_text("a")
    student.params({f"p{i}": "é" * 9000 for i in range(150)})
    student.metrics({f"m{i}": 1.0 for i in range(1500)}, step=1)
    student.artifact(PurePath("a.txt"), folder="good")
    student.dataset("phantom", digest="abc", context="training")
    student.status("FINISHED")
    assert sync(folder, uri=f"http://127.0.0.1:{port}").pending == 6
    uri = serve(port).uri
    for _ in range(2):
        assert sync(folder, uri=uri).pending == 0
        (folder / LEDGER_FILE).unlink()
        client, runs = stored(uri)
        run = runs["student"]
        assert run.info.status == "FINISHED"
        assert (len(run.data.params), len(run.data.metrics)) == (150, 1500)
        assert points(client, run, "m7") == [(1, 1.0)]
        assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["good"]
        assert len(run.inputs.dataset_inputs) == 1
        assert not [k for k in run.data.tags if k.startswith(("mlflow.user", "mlflow.source"))]
