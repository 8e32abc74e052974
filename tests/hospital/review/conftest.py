"""One page serves all tests of a file."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from peers import until

WORKERS = "AnyIO worker thread"


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """As for the node, but for the workers of a page that goes on serving; they end with it."""
    before = set(threading.enumerate())
    yield
    until(lambda: not [t for t in threading.enumerate() if not (t in before or t.daemon or t.name == WORKERS)])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """By which guesses are held back. It stands still: a busy machine would be past a wait of a second."""
    stands = SimpleNamespace(seconds=time.time())
    by_it = SimpleNamespace(time=lambda: stands.seconds)
    monkeypatch.setattr("med_transfer.hospital.review.access.limits.time", by_it)
    return stands
