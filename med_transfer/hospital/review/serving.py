"""Running the page as a process: its port, certificate, token for the first operator, and shutdown."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from med_transfer.atomic.sole_writer import LOCK_FILE
from med_transfer.errors import ConfigError
from med_transfer.hospital.config import NodeConfig, port_error
from med_transfer.hospital.queue import Queue
from med_transfer.hospital.review.app import review_app
from med_transfer.hospital.review.process import OF_NODE
from med_transfer.hospital.review.request_timeout import TimeoutProtocol
from med_transfer.hospital.settings.page import ReviewPage
from med_transfer.hospital.tls import server_context

_LOOK_SECONDS, _HEADER_BYTES, _CONNECTIONS, _END_SECONDS = 2.0, 32 << 10, 500, 5
_HANDOVER_SECONDS = _LOOK_SECONDS + _END_SECONDS + 1.0


def serve_page(node: NodeConfig, say: Callable[[str], None]) -> None:
    """Serve the review page until SIGTERM or SIGINT.

    Args:
        node: node.yaml.
        say: called with messages to the operator.

    Raises:
        ConfigError: node.yaml has no section ``page``, the port is in use, or a certificate or secret cannot be read.
        OutputError: a database cannot be opened.
    """
    if node.page is None:
        raise ConfigError("no section page", where="node.yaml", expected="page: {} for one on the loopback interface")
    listener, queue = _listening(node.page), Queue(node.queue_file, node.retries)
    with listener:
        app = review_app(node, queue)
        url = page_url(node.page)
        if node.page.oidc is None and (token := app.state.access.users.first_token()):
            say(f"No user yet. Create the first operator at {url}/first, once, with the token {token}")
        server = server_of(app, node.page)
        threading.Thread(target=_leave_to_another, args=(server, node), daemon=True).start()
        _stay_on_one_core()
        say(f"The review page is at {url}")
        with suppress(KeyboardInterrupt):  # uvicorn re-raises the signal after an orderly shutdown
            server.run(sockets=[listener])
    queue.close()


def page_url(page: ReviewPage) -> str:
    """URL of the page, with its first configured name, or else its address."""
    host = page.names[0] if page.names else f"[{page.bind}]" if ":" in page.bind else page.bind
    return f"{'https' if page.certificate else 'http'}://{host}:{page.port}"


def server_of(app: object, page: ReviewPage) -> uvicorn.Server:
    """Create the Uvicorn server, without server header and access log. Raises ConfigError."""
    context = server_context(page.certificate, page.key)
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=TimeoutProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        timeout_graceful_shutdown=_END_SECONDS,
    )
    config.load()
    config.ssl = context
    return uvicorn.Server(config)


def _listening(page: ReviewPage) -> socket.socket:
    """Open the page's port. A node's page waits for that of a killed node to leave it, see _leave_to_another."""
    family = socket.AF_INET6 if ":" in page.bind else socket.AF_INET
    deadline = time.monotonic() + (_HANDOVER_SECONDS if OF_NODE in os.environ else 0)
    while True:
        try:
            listener = socket.create_server((page.bind, page.port), family=family, backlog=256)
            break
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                raise port_error(error, page.bind, page.port, "page") from None
            time.sleep(_HANDOVER_SECONDS / 100)
    # Inherited by connections; asyncio sets it only for sockets with an explicit protocol. Without it, a page's second
    # packet waits for the acknowledgement of its first, which browsers delay by 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _stay_on_one_core() -> None:
    """Pin this thread and those that it starts to one core.

    Only one of them runs at a time anyway, and switching between threads on different cores costs twice as much.

    The process that reads scans is not pinned, see :class:`~med_transfer.scans.isolation.scan_worker.ScanWorker`.
    """
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})


def _leave_to_another(server: uvicorn.Server, node: NodeConfig) -> None:
    """Stop the page once another node, which has its own page, has locked the folder.

    A page survives a crash of the node that started it.
    """
    mine, ended = os.environ.get(OF_NODE), threading.Event()
    while mine and not server.should_exit:
        ended.wait(_LOOK_SECONDS)
        try:
            owner = str(json.loads((node.folder / LOCK_FILE).read_text())["process"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if owner != mine:
            server.should_exit = True
