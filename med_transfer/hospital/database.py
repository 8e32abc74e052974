"""Opening and writing the node's databases: readable by their owner only, and on disk before a caller is answered."""

from __future__ import annotations

import importlib.metadata
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from med_transfer.atomic import output_error
from med_transfer.errors import OutputError

Result = TypeVar("Result")

# Version of the database layout, SQLite's user_version. It stays the same when a column or table is added, which older
# versions ignore. It increases with a change that an older version would damage or fail on.
LAYOUT = 1
_WRITE_ERRORS = {  # source: SQLite, Result and Error Codes
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL),
    *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN),
}
_OWN_VERSION = importlib.metadata.version("med-transfer")


def connected(path: Path) -> sqlite3.Connection:
    """Connect in autocommit mode, for use by any thread; see :func:`transaction`.

    Raises:
        OutputError: the file was written by a newer version.
    """
    database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
    _require_layout(database, path)
    return database


def read_only(path: Path) -> sqlite3.Connection:
    """Connect read-only to an existing file, for use by any thread.

    Raises:
        OutputError: the file was written by a newer version, cannot be read, or is no database.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        database = sqlite3.connect(uri, uri=True, check_same_thread=False, timeout=30)
        _require_layout(database, path)
    except sqlite3.Error as error:
        raise _unusable(path, error, "database of a node") from error
    return database


def _require_layout(database: sqlite3.Connection, path: Path) -> None:
    (layout,) = database.execute("PRAGMA user_version").fetchone()
    if layout <= LAYOUT:
        return
    (version,) = database.execute("SELECT version FROM written_by").fetchone() or ("of a later day",)
    database.close()
    raise OutputError(
        f"was written by med-transfer {version}, in layout {layout}",
        where=path,
        expected=f"layout {LAYOUT}, the newest that this med-transfer {_OWN_VERSION} knows",
        action="Install that version again, or restore the backup from before the upgrade into a new folder",
    )


def _sign(database: sqlite3.Connection) -> None:
    """Store the version of the program and that of the layout."""
    database.execute("CREATE TABLE IF NOT EXISTS written_by (version TEXT NOT NULL)")
    if database.execute("SELECT version FROM written_by").fetchall() != [(_OWN_VERSION,)]:
        with transaction(database):
            database.execute("DELETE FROM written_by")
            database.execute("INSERT INTO written_by VALUES (?)", (_OWN_VERSION,))
    database.execute(f"PRAGMA user_version = {LAYOUT}")


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Run the block as one transaction: all of it or nothing.

    Raises:
        OutputError: the file cannot be written now.
    """
    try:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
        except BaseException:
            if database.in_transaction:  # SQLite has rolled back already if the disk is full
                database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")
    except sqlite3.Error as error:
        if (refused := _refused(_file_of(database), error)) is not None:
            raise refused from error
        raise


def _refused(path: Path, error: sqlite3.Error) -> OutputError | None:
    """The error if the file is intact but cannot be written now, as on a full disk or when it is locked; else None."""
    if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF not in _WRITE_ERRORS:  # low byte: primary code
        return None
    return OutputError(
        f"cannot be written ({error})",
        where=path,
        action="Check the disk, the file's owner and who else uses it; leave it there",
    )


def _unusable(path: Path, error: sqlite3.Error, what: str) -> OutputError:
    """The error for a file that cannot be used now, or that is not ``what``."""
    return _refused(path, error) or OutputError(
        f"is no {what} ({error})", where=path, action="Restore a backup, or move it away"
    )


def _file_of(database: sqlite3.Connection) -> Path:
    ((_, _, file),) = database.execute("PRAGMA database_list").fetchmany(1)
    return Path(file)


class SharedDatabase:
    """A database file for any thread and several processes: a connection for writing, and one for reading.

    Args:
        path: the file, created if missing.
        what: what it is, for errors.
        create_tables: creates or extends its tables.

    Raises:
        OutputError: the folder or file cannot be written, the file is not ``what``, or it was written by a newer
            version.
    """

    def __init__(self, path: Path, what: str, create_tables: Callable[[sqlite3.Connection], None]) -> None:
        self._lock, self._reading = threading.RLock(), threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600, exist_ok=True)
            self._database = connected(path)
            self._database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
            create_tables(self._database)
            _sign(self._database)
            self._reader = connected(path)
        except OSError as error:
            raise output_error(path, error) from error
        except sqlite3.Error as error:
            raise _unusable(path, error, what) from error

    def close(self) -> None:
        """Close the connections."""
        with self._lock, self._reading:
            self._reader.close()
            self._database.close()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Run the block as one transaction, and hold the lock for writing. Raises OutputError."""
        with self._lock, transaction(self._database) as database:
            yield database

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for reading committed data; it waits for no writer and holds up none."""
        with self._reading:
            yield self._reader


class SharedCommit(Generic[Result]):
    """Group commit: since every commit waits for the disk, concurrent writes of several threads share one.

    The thread that gets the lock first writes for all that wait. No call returns before its own write is on disk.

    Args:
        lock: lock of the connection.
        writing: opens a transaction.
    """

    def __init__(
        self, lock: AbstractContextManager[Any], writing: Callable[[], AbstractContextManager[sqlite3.Connection]]
    ) -> None:
        self._lock, self._writing = lock, writing
        self._waiting = deque[tuple[Callable[[sqlite3.Connection], Result], Future[Result]]]()

    def __len__(self) -> int:
        return len(self._waiting)

    def write(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Return the result of ``work`` within a transaction; if that fails, all writes in it raise the error."""
        own: Future[Result] = Future()
        self._waiting.append((work, own))
        with self._lock:
            if not own.done():
                self._write_all()
        return own.result()

    def _write_all(self) -> None:
        together = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            with self._writing() as database:
                results = [work(database) for work, _ in together]
        except BaseException as error:  # a full disk, or Ctrl-C: none of it was written
            for _, outcome in together:
                outcome.set_exception(error)
            return
        for (_, outcome), result in zip(together, results, strict=True):
            outcome.set_result(result)
