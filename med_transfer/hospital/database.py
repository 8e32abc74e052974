"""How the node's databases are opened and written: for their owner only, and on the disk before anybody is answered."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from med_transfer.atomic import output_error
from med_transfer.errors import OutputError

Result = TypeVar("Result")


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


@dataclass(eq=False)
class _Waiting:
    """What somebody wants written, and what became of it."""

    work: Callable[[sqlite3.Connection], Any]
    written: bool = False
    result: Any = None
    error: BaseException | None = None


class SharedCommit(Generic[Result]):
    """A commit waits for the disk; what several threads write at one time waits for one together.

    Whoever gets the lock first writes for all who wait. Nobody goes on before their own is on the disk.

    Args:
        lock: of the connection.
        writing: a transaction of it.
    """

    def __init__(
        self, lock: AbstractContextManager[Any], writing: Callable[[], AbstractContextManager[sqlite3.Connection]]
    ) -> None:
        self._lock, self._writing, self._waiting = lock, writing, deque[_Waiting]()

    def __len__(self) -> int:
        return len(self._waiting)

    def write(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """What ``work`` gives within a transaction; where that fails, each of those in it is told its error."""
        own = _Waiting(work)
        self._waiting.append(own)
        with self._lock:
            if not own.written and own.error is None:
                self._write_all()
        if own.error is not None:
            raise own.error
        return cast(Result, own.result)

    def _write_all(self) -> None:
        together = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            with self._writing() as database:
                results = [waiting.work(database) for waiting in together]
        except BaseException as error:  # a full disk, or Ctrl-C; nothing of it counts as written, for anybody
            for waiting in together:
                waiting.error = error
            return
        for waiting, result in zip(together, results, strict=True):
            waiting.written, waiting.result = True, result
