import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    ComprehensiveSRStorage,
    MRImageStorage,
    SegmentationStorage,
    Verification,
)

MEDKD = "from medkd.cli import main; main()"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(condition, *, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


@pytest.fixture
def until():
    """Return what waits until a condition is true, and returns it."""
    return wait_until


@pytest.fixture
def peer():
    """A PACS: it keeps what it is sent, as ``(uid, encoded object)``, and may refuse or abort."""

    class Pacs:
        def __init__(self):
            self.port, self.status, self.got = free_port(), 0x0000, []
            self.aborts_at = set()  # UIDs

        def start(self):
            entity = AE("PACS")
            entity.require_called_aet = True
            for context in (SegmentationStorage, ComprehensiveSRStorage):
                entity.add_supported_context(context)
            self._server = entity.start_server(
                ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._keep)]
            )
            return self

        def stop(self):
            self._server.shutdown()
            self._server.server_close()

        def _keep(self, event):
            uid = str(event.request.AffectedSOPInstanceUID)
            if uid in self.aborts_at:
                event.assoc.abort()
            elif self.status == 0:
                self.got.append((uid, event.encoded_dataset(include_meta=False)))
            return self.status

    pacs = Pacs().start()
    yield pacs
    pacs.stop()


class NodeProcess:
    """A node in a process of its own, which can be killed."""

    def __init__(self, release, peer, spool, *, allow=(), **options):
        self.spool, self.port, self.health_port = spool, free_port(), free_port()
        self._arguments = ["serve", release, "--peer", f"PACS@127.0.0.1:{peer.port}"]
        self._arguments += ["--spool", spool, "--port", self.port]
        for title in allow:
            self._arguments += ["--allow", title]
        for name, value in {"quiet_s": 1, "health_port": self.health_port, **options}.items():
            self._arguments += ["--set", f"{name}={value}"]
        self.log = spool.with_suffix(".log")

    def start(self):
        command = [sys.executable, "-c", MEDKD, *map(str, self._arguments)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self.health)
        return self

    def health(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            url = f"http://127.0.0.1:{self.health_port}/health"
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)
        except OSError:
            return None

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            return self.process.wait(timeout=30)
        return self.process.returncode


@pytest.fixture
def start_node(peer, tmp_path):
    """Return a maker of running nodes."""
    nodes = []

    def make(release, **options):
        node = NodeProcess(release, peer, tmp_path / "spool", **options)
        nodes.append(node)
        return node.start()

    yield make
    for node in nodes:
        node.stop()
    gc.collect()  # the sockets of connections that were refused


@pytest.fixture
def associate():
    """Return what opens an association to a node as a modality would."""

    def make(node, *, title="MODALITY", called="MEDKD"):
        entity = AE(title)
        entity.add_requested_context(MRImageStorage)
        entity.add_requested_context(Verification)
        return entity.associate("127.0.0.1", node.port, ae_title=called)

    return make
