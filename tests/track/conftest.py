import shutil
import socket
import subprocess
import sys

import pytest

from medkd.track.journal import Journal


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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def absent(port, monkeypatch):
    """The address of a server that does not run."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return f"http://someone:secret@127.0.0.1:{port}"


@pytest.fixture
def stored():
    """Return a reader of a store's runs, by role."""

    def read(uri):
        import mlflow

        client = mlflow.MlflowClient(tracking_uri=uri)
        experiments = [e.experiment_id for e in client.search_experiments()]
        runs = client.search_runs(experiments)
        by_role = {run.data.tags["medkd.role"]: run for run in runs}
        assert len(by_role) == len(runs), "a role has two runs"
        return client, by_role

    return read
