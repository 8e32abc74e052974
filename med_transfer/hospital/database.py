"""How the node's databases are opened and written: for their owner only, and on the disk before anybody is answered."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from med_transfer.atomic import output_error
from med_transfer.errors import OutputError


def connected(path: Path) -> sqlite3.Connection:
    """For any thread; a transaction begins and ends where it says so."""
    return sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)


@contextmanager
def opening(path: Path, what: str) -> Iterator[sqlite3.Connection]:
    """A connection to a file that is made where there is none; within the block its tables are made.

    Raises:
        OutputError: the folder cannot be written, or the file is not ``what``.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600, exist_ok=True)
        database = connected(path)
        database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
        yield database
    except OSError as error:
        raise output_error(path, error) from error
    except sqlite3.Error as error:
        raise OutputError(f"is no {what} ({error})", where=path, action="Move the file away") from error


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All of it or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield database
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")
