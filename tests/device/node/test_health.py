import json
import socket
import struct
import threading
import urllib.error
import urllib.request

import pytest

from medkd.device.node.health import HealthServer
from tests.device.node.conftest import free_port


@pytest.mark.parametrize(("well", "status"), [(True, 200), (False, 503)])
def test_the_status_says_whether_all_is_well_and_the_body_what_there_is_to_know(well, status):
    port = free_port()
    server = HealthServer(lambda: (well, {"answered": 3}), host="127.0.0.1", port=port)
    server.start()
    try:
        assert asked(port, "/health") == (status, {"answered": 3})
        assert asked(port, "/")[0] == 404
    finally:
        server.stop()


def test_a_connection_that_says_nothing_is_closed(monkeypatch):
    monkeypatch.setattr("medkd.device.node.health.IDLE_S", 0.1)
    port = free_port()
    server = HealthServer(lambda: (True, {}), host="127.0.0.1", port=port)
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as idle:
            assert idle.recv(1) == b""
    finally:
        server.stop()


def test_a_watcher_that_resets_its_connection_leaves_no_trace(capfd):
    was_asked, has_left = threading.Event(), threading.Event()

    def health():
        was_asked.set()
        has_left.wait(5)
        return True, {"much": "x" * 2**20}

    port = free_port()
    server = HealthServer(health, host="127.0.0.1", port=port)
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as watcher:
            watcher.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            assert was_asked.wait(5)
            watcher.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        has_left.set()
        assert asked(port, "/health")[0] == 200
    finally:
        server.stop()
    assert capfd.readouterr().err == ""


def test_an_error_is_told_in_a_line(capfd):
    def health():
        raise ZeroDivisionError("of DOE^JANE")

    port = free_port()
    server = HealthServer(health, host="127.0.0.1", port=port)
    server.start()
    try:
        with pytest.raises(ConnectionError):
            asked(port, "/health")
    finally:
        server.stop()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith("the health was not told (ZeroDivisionError)")


def asked(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            content = error.read()
        return error.code, json.loads(content) if path == "/health" else None
