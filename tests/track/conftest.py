import logging
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from medkd.results import read_report
from medkd.track.journal import Journal


@pytest.fixture(autouse=True)
def _warnings_are_logged(caplog):
    """An import of mlflow.pytorch by another test lets errors through alone."""
    caplog.set_level(logging.WARNING)


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "demo" / "journal.jsonl", description="# Demo")


@pytest.fixture
def folder(journal):
    return journal.path.parent


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A database with MLflow's tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    code = f"import mlflow; mlflow.MlflowClient('sqlite:///{path}').search_experiments()"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return path


@pytest.fixture
def uri(tmp_path, empty_store):
    """An empty SQLite store of its own for each test."""
    path = tmp_path / "mlflow.db"
    shutil.copy(empty_store, path)
    return f"sqlite:///{path}"


@pytest.fixture
def port():
    return free_port()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A real ``mlflow server`` on loopback, which can be killed and started again."""

    def __init__(self, folder, *, port, store=None, arguments=(), environment=()):
        folder.mkdir(parents=True, exist_ok=True)
        self.uri = f"http://127.0.0.1:{port}"
        store = ["--backend-store-uri", store or f"sqlite:///{folder}/server.db"]
        place = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        files = ["--artifacts-destination", str(folder / "files")]
        self._command = [sys.executable, "-m", "mlflow", "server", *store, *place, *files]
        self._command += arguments
        self._environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"} | dict(environment)
        self._log = folder / "server.log"
        self.start()

    def start(self):
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                cwd=self._log.parent,
            )
        until = time.monotonic() + 180
        while not self._answers():
            assert time.monotonic() < until, self._log.read_text()[-2000:]
            assert self._process.poll() is None, self._log.read_text()[-2000:]
            time.sleep(0.5)

    def kill(self):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)

    def limit_files_to(self, size):
        """Let no file grow beyond so many bytes, as on a disk that is full; -1 lifts the limit."""
        for process in _group(self._process.pid):
            _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
            resource.prlimit(process, resource.RLIMIT_FSIZE, (size, hard))

    def _answers(self):
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return True
        except OSError:
            return False


def _group(leader):
    """Return the processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int((path / "stat").read_text().rpartition(")")[2].split()[3]) == leader:
                found.append(int(path.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """Return a starter of real servers."""
    started = []

    def start(port=None, **options):
        folder = tmp_path_factory.mktemp("server")
        started.append(Server(folder, port=port or free_port(), **options))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="module")
def server(serve):
    """A server for all tests of a file."""
    return serve()


@pytest.fixture
def absent(port, monkeypatch):
    """The address of a server that does not run."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return f"http://someone:secret@127.0.0.1:{port}"


@pytest.fixture
def stored():
    """Return a reader of a store's runs, by role."""

    def read(uri, *, study=None):
        import mlflow

        client = mlflow.MlflowClient(tracking_uri=uri)
        experiments = [e.experiment_id for e in client.search_experiments()]
        which = f"tags.`medkd.study` = '{study}'" if study else ""
        runs = client.search_runs(experiments, which)
        by_role = {run.data.tags["medkd.role"]: run for run in runs}
        assert len(by_role) == len(runs), "a role has two runs"
        return client, by_role

    return read


@pytest.fixture(scope="session")
def report(released):
    """The report of the study that is released."""
    from medkd.evaluate.run import evaluate

    study, cohort = released
    evaluate(study, cohort)
    return read_report(study.folder / "report.json")
