"""Health: ``GET /health`` says whether a node works, for whatever watches over it."""

import json
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from medkd.device.node.log import log

IDLE_S = 10.0  # a connection that says nothing for so long is closed, and its thread ends
Health = Callable[[], tuple[bool, dict[str, Any]]]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say in a line what went wrong; nothing of a watcher that left before it was answered."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            log(f"the health was not told ({type(error).__name__})")


class HealthServer:
    """Answers 200 if all is well and 503 if not, with the same JSON."""

    def __init__(self, health: Health, *, host: str, port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            server_version, sys_version = "medkd", ""
            timeout = IDLE_S

            def do_GET(self) -> None:
                if self.path != "/health":
                    self.send_error(404)
                    return
                well, said = health()
                content = json.dumps(said).encode()
                self.send_response(200 if well else 503)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Say nothing: a watcher asks every few seconds."""

        self._server = _Server((host, port), Handler)

    def start(self) -> None:
        """Answer in a thread."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
