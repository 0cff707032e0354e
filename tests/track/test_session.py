import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from medkd.errors import MadeOtherwiseError
from medkd.track import session
from medkd.track.journal import read
from medkd.track.mirror import Mirror
from medkd.track.mlflow import sync
from medkd.track.session import Runs, tracked
from medkd.track.story import describe, final_figures
from tests.track.test_faults import STEPPED, assert_nothing_is_missing, key_of, wait_until


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


def test_what_was_made_otherwise_leaves_status_and_options_as_they_were(study):
    with tracked(study) as runs:
        runs["teacher"].status("FINISHED")
        runs["student"].metrics({"loss": 1.0}, step=1)
    options = (study.folder / "options.yaml").read_text()
    teacher = study.config.teacher.model_copy(update={"weight": 0.5})
    other = replace(study, config=study.config.model_copy(update={"teacher": teacher}))

    def refused(runs):
        assert (study.folder / "options.yaml").read_text() != options
        runs["teacher"].status("FINISHED")
        assert runs["student"]
        assert runs["baseline"]
        raise MadeOtherwiseError

    with pytest.raises(MadeOtherwiseError), tracked(other) as runs:
        refused(runs)
    assert (study.folder / "options.yaml").read_text() == options
    assert dict(statuses(study)) == {
        **dict.fromkeys(("study", "teacher", "student"), "FINISHED"),
        "baseline": "FAILED",  # it had never ended well
    }
    events = [event for event, _ in read(study.folder / "journal.jsonl")]
    told = [e["run"] for e in events if "options.yaml" in json.dumps(e)]
    assert told[-4:] == ["baseline", "student", "study", "teacher"]


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


def test_what_was_killed_by_force_is_said_to_be_killed_at_the_next_start(study):
    Runs(study, Unplugged(study.folder))["baseline"].metrics({"loss": 1.0}, step=1)
    with tracked(study) as runs:
        runs["teacher"].status("FINISHED")
    told = statuses(study)
    assert [status for run, status in told if run == "baseline"] == ["RUNNING", "KILLED"]
    assert told[-1] == ("study", "FINISHED")


ENDING = """
import os, signal, sys
from pathlib import Path
from medkd.config import load
from medkd.data.check import check
from medkd.study import Study
from medkd.track.session import tracked
from medkd.train.run import train_baseline

path, end = Path(sys.argv[1]), sys.argv[2]
study = Study(load(path, overrides=sys.argv[3:]), config_path=path)
cohort = check(study)


class Ending:
    def __init__(self, tracker):
        self._tracker = tracker

    def metrics(self, values, *, step):
        self._tracker.metrics(values, step=step)
        if step == 15 and end.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, end))
        if step == 15 and end == "exception":
            raise ValueError("boom")

    def __getattr__(self, name):
        return getattr(self._tracker, name)


with study.hold(cohort.split), tracked(study) as runs:
    train_baseline(study, cohort, tracker=Ending(runs["baseline"]))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
@pytest.mark.parametrize(
    ("end", "status"), [("exception", "FAILED"), ("SIGTERM", "KILLED"), ("SIGKILL", "RUNNING")]
)
def test_a_status_is_true_and_a_resumed_run_goes_on_in_its_place(
    end, status, make_config, server, stored
):
    path = make_config()
    folder = path.parent / "runs" / "tiny"

    def run(end):
        command = [sys.executable, "-c", ENDING, str(path), end, *STEPPED]
        environment = os.environ | {"MLFLOW_TRACKING_URI": server.uri}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        wait_until(lambda: sync(folder, uri=server.uri).pending == 0)
        return done, stored(server.uri, study=key_of(folder))[1]

    done, before = run(end)
    assert done.returncode != 0
    assert before["baseline"].info.status == before["study"].info.status == status
    assert (folder / "baseline.partial" / "last.pt").exists()

    done, after = run("")
    assert done.returncode == 0, done.stderr
    assert after["baseline"].info.status == after["study"].info.status == "FINISHED"
    same = [{role: run.info.run_id for role, run in runs.items()} for runs in (before, after)]
    assert same[0] == same[1]
    assert_nothing_is_missing(folder, stored, server.uri)
    told = [
        e["values"]["status"] for e, _ in read(folder / "journal.jsonl") if e["kind"] == "status"
    ]
    assert ("KILLED" in told) == (end != "exception"), "what was killed is said to be killed"
