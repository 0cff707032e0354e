"""A training under every fault of a real server: its weights, its waits, and what sync brings."""

import http.client
import logging
import os
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from medkd.study import sha256
from medkd.track import session
from medkd.track.journal import Journal, read
from medkd.track.ledger import LEDGER_FILE, Ledger
from medkd.track.mirror import Mirror
from medkd.track.mlflow import sync
from medkd.track.session import tracked
from medkd.track.tracker import NullTracker

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

STEPS, MIDWAY = 30, 15
LONGEST_WAIT_S = 0.050  # of one step


@pytest.fixture(scope="module")
def weights(make_study):
    """What the training comes to without any tracking."""
    return train(make_study(*STEPPED), tracker=NullTracker())


STEPPED = (f"student.train.steps={STEPS}", "student.train.validate_every=3")


def train(made, *, tracker):
    from medkd.train.run import train_baseline

    study, cohort = made
    return sha256(train_baseline(study, cohort, tracker=tracker) / "weights.safetensors")


class Timed:
    """A tracker that measures how long training waits for it, and lets something happen midway."""

    def __init__(self, tracker, midway):
        self._tracker = tracker
        self._midway = midway
        self.waits_s = defaultdict(float)  # by step

    def metrics(self, values, *, step):
        if step == MIDWAY and self._midway:
            happens, self._midway = self._midway, None
            happens()
        self._timed("metrics", values, step=step)

    def params(self, values):
        self._timed("params", values)

    def artifact(self, path, *, folder=""):
        self._timed("artifact", path, folder=folder)

    def image(self, path, *, name, step):
        self._timed("image", path, name=name, step=step)

    def dataset(self, name, *, digest, context):
        self._timed("dataset", name, digest=digest, context=context)

    def tags(self, values):
        self._timed("tags", values)

    def status(self, status):
        self._timed("status", status)

    def _timed(self, method, *values, **more):
        """Call; a process that is merely not its turn on a busy machine does not wait for us."""
        wall, cpu = time.perf_counter(), time.thread_time()
        slept = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        getattr(self._tracker, method)(*values, **more)
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        slept = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - slept
        self.waits_s[more.get("step")] += wall if slept else cpu


@pytest.fixture
def disturbed(make_study, monkeypatch, weights):
    """Return a runner of the training against a store, which comes back as the study's folder."""

    def run(uri, *, midway=None):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setattr(session, "Mirror", partial(Mirror, every_s=0.2, grace_s=12.0))
        study, cohort = make_study(*STEPPED)
        happens = partial(midway, study.folder) if midway else None
        with study.hold(cohort.split), tracked(study) as runs:
            timed = Timed(runs["baseline"], happens)
            assert train((study, cohort), tracker=timed) == weights
        assert len(timed.waits_s) > STEPS / 3
        longest = max(timed.waits_s.values())
        print(f"longest wait of a step {1000 * longest:.1f} ms")  # noqa: T201
        assert longest < LONGEST_WAIT_S
        return study.folder

    return run


def key_of(folder):
    return next(read(folder / "journal.jsonl"))[0]["values"]["key"]


def assert_nothing_is_missing(folder, stored, uri):
    """Compare a store with the journal, event by event."""
    client, runs = stored(uri, study=key_of(folder))
    events = [event for event, _ in read(folder / "journal.jsonl")]
    assert {event["run"] for event in events} == set(runs) == {"study", "baseline"}
    for role, run in runs.items():
        told = defaultdict(list)
        for event in events:
            if event["run"] == role:
                told[event["kind"]].append(event)
        assert run.data.params == _merged(told["params"])
        assert _merged(told["tags"]).items() <= run.data.tags.items()
        assert run.info.status == told["status"][-1]["values"]["status"]
        curves = defaultdict(list)
        for event in told["metrics"]:
            for name, value in event["values"].items():
                curves[name].append((event["step"], event["time_ms"], value))
        assert set(run.data.metrics) == set(curves)
        for name, points in curves.items():
            stored_points = client.get_metric_history(run.info.run_id, name)
            assert sorted((m.step, m.timestamp, m.value) for m in stored_points) == sorted(points)
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
        pictures = {"images"} if told["image"] else set()
        assert {event["values"]["path"] for event in told["artifact"]} | pictures == files
        shown = client.list_artifacts(run.info.run_id, "images") if told["image"] else []
        assert len(shown) == 2 * len(told["image"]), "a picture and its small copy, once"
        inputs = {
            (i.dataset.name, i.dataset.digest, i.tags[0].value) for i in run.inputs.dataset_inputs
        }
        assert inputs == {tuple(event["values"].values()) for event in told["dataset"]}


def _merged(events):
    return {key: value for event in events for key, value in event["values"].items()}


def wait_until(true, *, seconds=120.0):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)


def has_begun(folder, uri):
    """Whether the mirror has sent something of a study."""
    return bool(Ledger(folder, uri).runs)


class Proxy(ThreadingHTTPServer):
    """Stands before a server and spoils its answers."""

    daemon_threads = True

    def __init__(self, target):
        super().__init__(("127.0.0.1", 0), _Relay)
        self.target = target.removeprefix("http://")
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"
        self.delay_s = 0.0
        self.spoils = lambda number: False
        self.spoilt = self.seen = 0

    def handle_error(self, request, client_address):
        """Say nothing of clients that did not wait."""


class _Relay(BaseHTTPRequestHandler):
    def _relay(self):
        proxy = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        there = http.client.HTTPConnection(proxy.target, timeout=60)
        there.request(self.command, self.path, body, dict(self.headers))
        answer = there.getresponse()
        content = answer.read()
        there.close()
        proxy.seen += 1
        time.sleep(proxy.delay_s)
        status, kept = answer.status, answer.getheader("Content-Type") or "text/plain"
        if proxy.spoils(proxy.seen):
            status, kept, content = 500, "text/plain", b"Internal Server Error"
            proxy.spoilt += 1
        self.send_response(status)
        self.send_header("Content-Type", kept)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _relay  # noqa: N815

    def log_message(self, *_):
        """Stay silent."""


@pytest.fixture
def proxy(server):
    with Proxy(server.uri) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()


def test_a_server_that_is_absent(disturbed, absent, server, stored, caplog):
    with caplog.at_level(logging.WARNING):
        folder = disturbed(absent)
    assert "events did not reach MLflow (MlflowException" in caplog.text
    assert sync(folder, uri=server.uri).pending == 0
    assert_nothing_is_missing(folder, stored, server.uri)


@pytest.fixture
def killed_midway(disturbed, caplog):
    """Return a runner of the training against a server that dies of it; the study's folder."""

    def run(server):
        def kill(folder):
            wait_until(lambda: has_begun(folder, server.uri))
            server.kill()

        with caplog.at_level(logging.WARNING):
            folder = disturbed(server.uri, midway=kill)
        assert "events did not reach MLflow" in caplog.text
        return folder

    return run


def test_a_server_that_is_killed_midway(killed_midway, server, stored):
    folder = killed_midway(server)
    server.start()
    assert sync(folder, uri=server.uri).pending == 0
    assert_nothing_is_missing(folder, stored, server.uri)


def test_a_server_that_takes_five_seconds_to_answer(disturbed, proxy, server, stored, caplog):
    proxy.delay_s = 5.0
    with caplog.at_level(logging.WARNING):
        folder = disturbed(proxy.uri, midway=lambda _: wait_until(lambda: proxy.seen))
    assert "events did not reach MLflow within 12 s" in caplog.text
    proxy.delay_s = 0.0
    assert sync(folder, uri=proxy.uri).pending == 0
    assert_nothing_is_missing(folder, stored, server.uri)


@pytest.mark.parametrize("every", [1, 3])
def test_a_server_that_does_what_it_is_asked_and_answers_500(
    every, disturbed, proxy, server, stored, caplog
):
    proxy.spoils = lambda number: number % every == 0
    with caplog.at_level(logging.WARNING):
        folder = disturbed(proxy.uri, midway=lambda _: wait_until(lambda: proxy.spoilt))
    if every == 1:
        assert "events did not reach MLflow (MlflowException: API request" in caplog.text
    proxy.spoils = lambda number: False
    assert sync(folder, uri=proxy.uri).pending == 0
    assert_nothing_is_missing(folder, stored, server.uri)


def test_a_store_whose_disk_is_full(disturbed, server, stored, caplog):
    def fill(folder):
        wait_until(lambda: has_begun(folder, server.uri))
        server.limit_files_to(0)

    try:
        with caplog.at_level(logging.WARNING):
            folder = disturbed(server.uri, midway=fill)
    finally:
        server.limit_files_to(resource.RLIM_INFINITY)
    assert "events did not reach MLflow" in caplog.text
    assert sync(folder, uri=server.uri).pending == 0
    assert_nothing_is_missing(folder, stored, server.uri)


POSTGRES = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """The address of a PostgreSQL of our own; it refuses to run as root."""
    if not (POSTGRES / "initdb").exists():
        pytest.skip("PostgreSQL is not installed")
    user = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="medkd-pg-") as name:
        if user:
            shutil.chown(name, user)
        data, run = Path(name) / "data", partial(subprocess.run, check=True, user=user, cwd=name)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        run([POSTGRES / "initdb", "-D", data, "-U", "medkd", "-A", "trust"], **quiet)
        place = f"-p 5432 -k {name} -c listen_addresses="
        run([POSTGRES / "pg_ctl", "-D", data, "-w", "-o", place, "start"], **quiet)
        try:
            yield f"postgresql+psycopg2://medkd@/postgres?host={name}"
        finally:
            run([POSTGRES / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **quiet)


def add_release(folder):
    Journal(folder / "journal.jsonl").run("baseline").release(
        "on-a-server", digest=key_of(folder), tags={"medkd.data": "d"}, description="## Demo"
    )


def assert_candidate(folder, client):
    version = client.get_model_version_by_alias("on-a-server", "candidate")
    assert version.tags["medkd.release"] == key_of(folder)


def test_a_server_on_postgresql_that_is_killed_midway(killed_midway, postgres, serve, stored):
    server = serve(store=postgres)
    folder = killed_midway(server)
    add_release(folder)
    server.start()
    for _ in range(2):
        assert sync(folder, uri=server.uri).pending == 0
        assert_nothing_is_missing(folder, stored, server.uri)
        (folder / LEDGER_FILE).unlink()
    client = stored(server.uri, study=key_of(folder))[0]
    assert_candidate(folder, client)
    assert len(client.search_model_versions("name = 'on-a-server'")) == 1


def test_a_server_that_asks_for_a_password(disturbed, serve, stored, monkeypatch, tmp_path, caplog):
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")
    settings = tmp_path / "auth.ini"
    settings.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{tmp_path}/users.db\n"
        "admin_username = admin\nadmin_password = a-long-password-1\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    server = serve(
        arguments=["--app-name", "basic-auth"],
        environment={
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test",
        },
    )
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-wrong-password")
    with caplog.at_level(logging.WARNING):
        folder = disturbed(server.uri)
    assert "events did not reach MLflow (MlflowException: API request" in caplog.text
    assert "a-wrong-password" not in caplog.text
    add_release(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-long-password-1")
    assert sync(folder, uri=server.uri).pending == 0
    assert_nothing_is_missing(folder, stored, server.uri)
    assert_candidate(folder, stored(server.uri, study=key_of(folder))[0])
    assert "a-long-password-1" not in (folder / "journal.jsonl").read_text()
