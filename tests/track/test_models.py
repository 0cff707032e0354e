import logging

import pytest

from medkd.track.journal import Journal
from medkd.track.ledger import LEDGER_FILE
from medkd.track.mlflow import SyncReport, sync

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

NAME = "demo-student"


def client_of(uri):
    import mlflow

    return mlflow.MlflowClient(tracking_uri=uri)


def release(journal, *, digest="a" * 64, verdict="NOT READY", figures=None):
    tags = {"medkd.data": "d1", "medkd.verdict": verdict}
    text = f"## {verdict}"
    run = journal.run("student")
    run.release(NAME, digest=digest, tags=tags, description=text, figures=figures)


def aliases(client):
    found = client.get_registered_model(NAME).aliases
    return {alias: str(version) for alias, version in found.items()}


def test_a_release_becomes_the_candidate_version_of_an_external_model(journal, folder, uri, stored):
    journal.run("teacher").status("FINISHED")
    release(journal)
    assert sync(folder, uri=uri).pending == 0
    client, runs = stored(uri)
    (version,) = client.search_model_versions(f"name = '{NAME}'")
    assert aliases(client) == {"candidate": "1"}
    assert version.run_id == runs["student"].info.run_id
    assert version.tags["medkd.release"] == "a" * 64
    assert version.tags["medkd.teacher_run"] == runs["teacher"].info.run_id
    assert version.tags["medkd.data"] == "d1"
    (model,) = client.search_logged_models([runs["study"].info.experiment_id])
    assert version.source == model.artifact_location
    assert model.tags["mlflow.model.isExternal"] == "true"
    assert model.status == "READY"
    files = client.list_logged_model_artifacts(model.model_id)
    assert [file.path for file in files] == ["MLmodel"], "no weights, no pickle"


def test_figures_are_those_of_the_run_and_of_its_model(journal, folder, uri, stored):
    figures = {"final/dice": 0.8, "final/dice/left (%)": 0.7, "final/auroc": float("nan")}
    release(journal, figures=figures)
    for _ in range(2):
        assert sync(folder, uri=uri).pending == 0
        (folder / LEDGER_FILE).unlink()
    client, runs = stored(uri)
    run = runs["student"]
    (model,) = client.search_logged_models([run.info.experiment_id])
    arrived = {"final/dice": 0.8, "final/dice/left ___": 0.7}
    assert {metric.key: metric.value for metric in model.metrics} == arrived == run.data.metrics
    assert len(model.metrics) == len(arrived)
    assert {metric.run_id for metric in model.metrics} == {run.info.run_id}
    assert len(client.get_metric_history(run.info.run_id, "final/dice")) == 1


def test_sending_again_makes_no_second_version_and_brings_tags_up_to_date(
    journal, folder, uri, stored
):
    release(journal)
    sync(folder, uri=uri)
    release(journal, verdict="READY FOR REVIEW")
    sync(folder, uri=uri)
    (folder / LEDGER_FILE).unlink()
    assert sync(folder, uri=uri) == SyncReport(sent=3, pending=0)
    client, runs = stored(uri)
    (version,) = client.search_model_versions(f"name = '{NAME}'")
    assert version.tags["medkd.verdict"] == "READY FOR REVIEW"
    assert version.description == "## READY FOR REVIEW"
    assert len(client.search_logged_models([runs["study"].info.experiment_id])) == 1


def test_a_release_is_the_logged_model_of_its_run_once(journal, folder, uri, stored):
    journal.run("teacher").status("FINISHED")
    release(journal)
    for _ in range(2):
        assert sync(folder, uri=uri).pending == 0
        (folder / LEDGER_FILE).unlink()
    release(journal, digest="b" * 64)
    assert sync(folder, uri=uri).pending == 0
    client, runs = stored(uri)
    models = client.search_logged_models([runs["study"].info.experiment_id])
    outputs = [output.model_id for output in runs["student"].outputs.model_outputs]
    assert sorted(outputs) == sorted(model.model_id for model in models)
    assert len(outputs) == 2
    assert not runs["teacher"].outputs.model_outputs


def test_aliases_move_forward_in_time_only(journal, folder, uri, tmp_path):
    release(journal)
    journal.run("student").alias(NAME, digest="a" * 64, alias="reviewed")
    sync(folder, uri=uri)
    later = Journal(tmp_path / "later" / "journal.jsonl", experiment="demo")
    release(later, digest="b" * 64)
    sync(later.path.parent, uri=uri)
    client = client_of(uri)
    assert aliases(client) == {"candidate": "2", "reviewed": "1"}
    (folder / LEDGER_FILE).unlink()
    sync(folder, uri=uri)
    assert aliases(client) == {"candidate": "2", "reviewed": "1"}
    later.run("student").alias(NAME, digest="b" * 64, alias="reviewed")
    sync(later.path.parent, uri=uri)
    assert aliases(client) == {"candidate": "2", "reviewed": "2"}


def test_a_release_that_nobody_told_of_is_not_called_anything(journal, folder, uri, caplog):
    journal.run("student").alias(NAME, digest="c" * 64, alias="reviewed")
    with caplog.at_level(logging.WARNING):
        assert sync(folder, uri=uri).pending == 0
    assert "no version of release" in caplog.text
