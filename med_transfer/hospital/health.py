"""What a monitor asks by HTTP: ``/metrics`` (Prometheus' text format), ``/live`` and ``/ready``. Names no patient."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from med_transfer.hospital.config import Metrics, NodeConfig, not_opened
from med_transfer.hospital.figures import Figures

_REQUEST_SECONDS = 5.0  # for which one may take


class Pulse:
    """When each thread last came back from its work; one that has not for ``stuck_seconds`` is stuck."""

    def __init__(self, stuck_seconds: float) -> None:
        self._stuck_seconds, self._beats = stuck_seconds, {}

    def beat(self, thread: str) -> None:
        """It is at work."""
        self._beats[thread] = time.monotonic()

    def seconds(self) -> dict[str, float]:
        """Since the last beat, by thread."""
        return {thread: time.monotonic() - beaten for thread, beaten in list(self._beats.items())}

    def stuck(self) -> list[str]:
        """Threads that are."""
        return [thread for thread, seconds in self.seconds().items() if seconds > self._stuck_seconds]


class HealthServer:
    """In threads of its own, from the beginning to ``close``.

    Args:
        node: node.yaml.
        settings: where it listens.
        readiness: asked by ``/ready``: what must be so, and whether it is.
        pulse: of the node's threads, for ``/live``.

    Raises:
        ConfigError: the port is taken, or the address is not this machine's.
    """

    def __init__(
        self, node: NodeConfig, settings: Metrics, readiness: Callable[[], dict[str, bool]], pulse: Pulse
    ) -> None:
        try:
            self._server = _Server((settings.bind, settings.port), _Handler)
        except OSError as error:
            raise not_opened(error, settings.bind, settings.port, "metrics") from None
        self._figures = Figures(node, pulse.seconds)
        self._server.answers = {
            "/metrics": lambda: (200, "text/plain; version=0.0.4; charset=utf-8", self._figures.exposition()),
            "/live": lambda: _told({f"{thread} is stuck": False for thread in pulse.stuck()}),
            "/ready": lambda: _told(readiness()),
        }
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._figures.close()


Answer = tuple[int, str, bytes]  # status, media type, content


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    answers: Mapping[str, Callable[[], Answer]]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One that hangs up is no one else's matter."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = _REQUEST_SECONDS
    server_version, sys_version = "med-transfer", ""

    def do_GET(self) -> None:
        """One of the three."""
        answer = self.server.answers.get(self.path)
        status, kind, content = answer() if answer else (404, "text/plain", b"/metrics, /live, /ready\n")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """A probe every few seconds is no news."""


def _told(conditions: dict[str, bool]) -> Answer:
    good = all(conditions.values())
    return 200 if good else 503, "application/json", json.dumps({"ok": good, **conditions}).encode() + b"\n"
