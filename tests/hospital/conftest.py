"""A node's config on a free port."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from peers import free_port, until

from med_transfer.hospital.config import NodeConfig

pytest.importorskip("pynetdicom", reason="needs the extra [hospital]")


@pytest.fixture(autouse=True)
def senders_close_what_they_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """pynetdicom's do not where the other side was first to hang up, and whether it was is a matter of timing."""
    from pynetdicom.transport import AssociationSocket

    def close(self: AssociationSocket) -> None:
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            self.socket.close()

    monkeypatch.setattr(AssociationSocket, "_shutdown_socket", close)


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """A thread or process that a test leaves behind would keep the whole run from ending."""
    before = set(threading.enumerate())
    yield
    until(lambda: not [t for t in threading.enumerate() if t not in before and not t.daemon])


@pytest.fixture
def node_config(tmp_path: Path) -> Callable[..., NodeConfig]:
    """Of a node that takes images of CT1 on loopback."""

    def make(**settings: object) -> NodeConfig:
        (tmp_path / "state").mkdir(exist_ok=True)
        own = {
            "folder": tmp_path / "state",
            "port": free_port(),
            "callers": [{"ae_title": "CT1", "address": "127.0.0.1"}],
            "limits": {"disk_free_gib": 0.0},
            "study": {"quiet_seconds": 0.3, "keep_days": None},
        }
        return NodeConfig.model_validate(own | settings)

    return make
