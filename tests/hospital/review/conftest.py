"""One page serves the tests of a file."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from peers import until

WORKERS = "AnyIO worker thread"


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """As for the node, but for the workers of a page that goes on serving; they end with it."""
    before = set(threading.enumerate())
    yield
    until(lambda: not [t for t in threading.enumerate() if not (t in before or t.daemon or t.name == WORKERS)], 20)
