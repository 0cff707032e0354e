import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medkd.track.ledger import Ledger
from medkd.track.mirror import Mirror

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


def wait_until(true, *, seconds=60.0):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)


def test_a_study_is_mirrored_while_it_runs_paused_and_at_its_end(journal, folder, uri, stored):
    student, ledger = journal.run("student"), Ledger(folder, uri)
    with Mirror(folder, uri=uri, every_s=0.1) as mirror:
        student.metrics({"loss": 1.0}, step=1)
        wait_until(lambda: ledger.pending() == 0)

        mirror.pause()
        student.metrics({"loss": 0.5}, step=2)
        time.sleep(1)
        assert ledger.pending() == 1

        mirror.resume()
        wait_until(lambda: ledger.pending() == 0)

        mirror.pause()
        student.status("FINISHED")
        assert mirror.close() is True
    client, runs = stored(uri)
    run = runs["student"].info
    assert run.status == "FINISHED"
    assert len(client.get_metric_history(run.run_id, "loss")) == 2


def test_an_absent_store_never_holds_the_study_up(journal, folder, absent, caplog):
    start = time.monotonic()
    mirror = Mirror(folder, uri=absent, every_s=0.1)
    with caplog.at_level(logging.WARNING), mirror:
        for step in range(100):
            journal.run("student").metrics({"loss": 1.0}, step=step)
        assert time.monotonic() - start < 2
    (warning,) = caplog.messages
    assert warning.startswith("101 events did not reach MLflow (MlflowException: ")
    assert warning.endswith(f"later: medkd sync {folder}")
    assert "secret" not in warning
    assert mirror.close() is False


def test_a_store_that_never_answers_is_left_after_the_grace(journal, folder, caplog):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        mirror = Mirror(folder, uri=uri, every_s=0.1, grace_s=1.0)
        with caplog.at_level(logging.WARNING), mirror:
            journal.run("student").status("RUNNING")
            start = time.monotonic()
        assert 0.9 < time.monotonic() - start < 5
    assert "2 events did not reach MLflow within 1 s; later: medkd sync" in caplog.text


def test_a_study_that_is_killed_leaves_its_last_words_in_the_store(folder, uri, stored):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from medkd.track.journal import Journal\n"
        "from medkd.track.mirror import Mirror\n"
        "folder = Path(sys.argv[1]); run = Journal(folder / 'journal.jsonl').run('student')\n"
        "with Mirror(folder, uri=sys.argv[2], every_s=600.0) as mirror:\n"
        "    run.metrics({'loss': 1.0}, step=1); print(mirror._process.pid, flush=True)\n"
        "    time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(folder), uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as study:
        mirror = int(study.stdout.readline())
        study.send_signal(signal.SIGKILL)
    wait_until(lambda: Ledger(folder, uri).pending() == 0)
    assert "student" in stored(uri)[1]
    wait_until(lambda: not _runs(mirror))


def _runs(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().split()[2] != "Z"


def test_a_mirror_that_dies_costs_a_warning(journal, folder, uri, caplog):
    mirror = Mirror(folder, uri=uri, every_s=60.0)
    with caplog.at_level(logging.WARNING), mirror:
        os.kill(mirror._process.pid, signal.SIGKILL)
        mirror._process.wait()
        mirror.pause()
        mirror.resume()
        journal.run("student").status("RUNNING")
    assert "2 events did not reach MLflow; later: medkd sync" in caplog.text


def test_no_address_stands_on_a_command_line(folder, absent):
    with Mirror(folder, uri=absent, every_s=60.0, grace_s=0.0) as mirror:
        assert "secret" not in Path(f"/proc/{mirror._process.pid}/cmdline").read_text()
