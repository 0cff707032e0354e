import json
import logging
import math
import resource
import signal
import subprocess
import sys
from pathlib import PurePath

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medkd.track.journal import Journal, read


def events(journal, offset=0):
    return [event for event, _ in read(journal.path, offset)]


def test_the_first_event_names_the_study_and_is_written_once(journal):
    again = Journal(journal.path, name="other")
    (first,) = events(again)
    assert first["run"] == "study"
    assert first["kind"] == "study"
    assert first["values"]["name"] == "demo"
    assert first["values"]["description"] == "# Demo"
    assert len(first["values"]["key"]) == 32


def test_two_studies_have_two_keys(journal, tmp_path):
    (other,) = events(Journal(tmp_path / "other.jsonl", name="demo"))
    assert other["values"]["key"] != events(journal)[0]["values"]["key"]


def test_what_is_reported_is_read_back(journal, folder):
    run = journal.run("student")
    run.params({"lr": 0.1, "window": (32, 32)})
    run.metrics({"loss": np.float64(0.5), "misses": 3}, step=7)
    run.artifact(folder / "report.html", folder="report")
    run.dataset("phantom", digest="abc", context="training")
    run.tags({"arm": "b"})
    run.status("KILLED")
    params, metrics, artifact, dataset, tags, status = events(journal)[1:]
    assert params["values"] == {"lr": "0.1", "window": "(32, 32)"}
    assert (metrics["step"], metrics["values"]) == (7, {"loss": 0.5, "misses": 3.0})
    assert artifact["values"] == {"path": "report.html", "folder": "report"}
    assert dataset["values"] == {"name": "phantom", "digest": "abc", "context": "training"}
    assert tags["values"] == {"arm": "b"}
    assert status["values"] == {"status": "KILLED"}
    assert {event["run"] for event in (params, metrics, artifact, dataset, tags, status)} == {
        "student"
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_null_and_listed(journal, value):
    journal.run("student").metrics({"loss": value, "dice": 0.5}, step=1)
    text = journal.path.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert events(journal)[1]["values"] == {"loss": None, "dice": 0.5}
    assert events(journal)[1]["not_finite"] == ["loss"]


def test_a_path_outside_the_study_is_refused(journal):
    with pytest.raises(ValueError, match="subpath"):
        journal.run("study").artifact(PurePath("/etc/passwd"))


def test_reading_goes_on_from_any_event(journal):
    for step in range(5):
        journal.run("student").metrics({"loss": 1.0}, step=step)
    ends = [end for _, end in read(journal.path)]
    for count, end in enumerate(ends, start=1):
        assert events(journal, end) == events(journal)[count:]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_journal_torn_anywhere_keeps_its_whole_lines_and_goes_on(tmp_path, data):
    path = tmp_path / "torn.jsonl"
    path.unlink(missing_ok=True)
    journal = Journal(path)
    for step in range(4):
        journal.run("é").metrics({"loss": 0.5}, step=step)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    before = events(journal)
    assert len(before) == whole[:cut].count(b"\n")

    Journal(path).run("é").metrics({"loss": 0.25}, step=9)
    after = events(journal)
    assert after[0]["kind"] == "study"
    assert after[: len(before)] == before
    assert after[-1]["values"] == {"loss": 0.25}
    assert [e["step"] for e in after if e["kind"] == "metrics"] in [
        [*range(n), 9] for n in range(5)
    ]


def test_a_killed_writer_loses_nothing_it_has_written(journal):
    code = (
        "import sys; from pathlib import Path; from medkd.track.journal import Journal\n"
        "run = Journal(Path(sys.argv[1])).run('student')\n"
        "for step in range(10**6): run.metrics({'loss': 1.0}, step=step); print(step, flush=True)"
    )
    command = [sys.executable, "-c", code, str(journal.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        for line in writer.stdout:
            if int(line) == 50:
                break
        writer.send_signal(signal.SIGKILL)
        said = [int(line) for line in writer.stdout if line.endswith("\n")]
    steps = [event["step"] for event in events(journal)[1:]]
    assert steps == list(range(len(steps)))
    assert steps[-1] >= max(said, default=50)


def test_a_disk_that_refuses_costs_a_warning(journal, caplog):
    journal.path.unlink()
    journal.path.mkdir()
    with caplog.at_level(logging.WARNING):
        journal.run("student").metrics({"loss": 1.0}, step=1)
    assert "not written" in caplog.text


def test_a_full_disk_costs_a_warning_and_the_journal_goes_on_after_it(journal, caplog):
    run = journal.run("student")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (journal.path.stat().st_size + 10, hard))
        run.metrics({"loss": 1.0}, step=1)  # torn
        run.metrics({"loss": 1.0}, step=2)  # refused
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    run.metrics({"loss": 1.0}, step=3)
    assert [event.get("step") for event in events(journal)] == [None, 3]
    assert caplog.text.count("not written") == 2


def test_lines_of_others_are_skipped(journal):
    with journal.path.open("a") as file:
        file.write(f"[1, 2]\n{{}}\n\n{json.dumps({'run': 'x'})}\nnot json\n")
    journal.run("student").status("FINISHED")
    assert [event["kind"] for event in events(journal)] == ["study", "status"]
