import json
import socket
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


def asked(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            content = error.read()
        return error.code, json.loads(content) if path == "/health" else None
