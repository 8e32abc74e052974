"""HTTP endpoints for monitoring: ``/metrics`` (Prometheus' text format), ``/live`` and ``/ready``. No patient data."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from med_transfer.hospital.config import Metrics, NodeConfig, port_error
from med_transfer.hospital.figures import Figures

_REQUEST_SECONDS = 5.0  # time-out of a request


class Pulse:
    """Heartbeats of threads; one that has given none for ``stuck_seconds`` is stuck."""

    def __init__(self, stuck_seconds: float) -> None:
        self._stuck_seconds, self._beats = stuck_seconds, {}

    def beat(self, thread: str) -> None:
        """Record a heartbeat of a thread."""
        self._beats[thread] = time.monotonic()

    def seconds(self) -> dict[str, float]:
        """Seconds since the last heartbeat of each thread."""
        return {thread: time.monotonic() - beaten for thread, beaten in list(self._beats.items())}

    def stuck(self) -> list[str]:
        """Names of the stuck threads."""
        return [thread for thread, seconds in self.seconds().items() if seconds > self._stuck_seconds]


class HealthServer:
    """HTTP server that runs in its own threads from construction until ``close``.

    Args:
        node: node.yaml.
        settings: address and port.
        readiness: returns the conditions for ``/ready``, and whether each is met.
        pulse: heartbeats of the node's threads, for ``/live``.

    Raises:
        ConfigError: the port is in use, or the address is not this machine's.
    """

    def __init__(
        self, node: NodeConfig, settings: Metrics, readiness: Callable[[], dict[str, bool]], pulse: Pulse
    ) -> None:
        try:
            self._server = _Server((settings.bind, settings.port))
        except OSError as error:
            raise port_error(error, settings.bind, settings.port, "metrics") from None
        self._figures = Figures(node, pulse.seconds)
        self._server.answers = {
            "/metrics": lambda: (200, "text/plain; version=0.0.4; charset=utf-8", self._figures.exposition()),
            "/live": lambda: _answer({f"{thread} is stuck": False for thread in pulse.stuck()}),
            "/ready": lambda: _answer(readiness()),
        }
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._figures.close()


Answer = tuple[int, str, bytes]  # status, media type, content


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    answers: Mapping[str, Callable[[], Answer]]

    def __init__(self, address: tuple[str, int]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors of single connections, such as a client that hangs up."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = _REQUEST_SECONDS
    server_version, sys_version = "med-transfer", ""

    def do_GET(self) -> None:
        """Answer one of the three paths."""
        answer = self.server.answers.get(self.path)
        status, kind, content = answer() if answer else (404, "text/plain", b"/metrics, /live, /ready\n")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing, since probes come every few seconds."""


def _answer(conditions: dict[str, bool]) -> Answer:
    good = all(conditions.values())
    return 200 if good else 503, "application/json", json.dumps({"ok": good, **conditions}).encode() + b"\n"
