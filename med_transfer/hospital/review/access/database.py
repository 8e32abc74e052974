"""The page's own database: users, sessions, failed sign-ins, and the audit record. It contains no patient names.

Passwords are stored as argon2id hashes, sessions and tokens as SHA-256 of random 256-bit values.
"""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from typing import Any

from med_transfer.hospital import record
from med_transfer.hospital.database import SharedCommit, SharedDatabase

_SCHEMA = """
CREATE TABLE IF NOT EXISTS user (name TEXT PRIMARY KEY COLLATE NOCASE, role TEXT NOT NULL, password TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS session (
    hash TEXT PRIMARY KEY, user TEXT NOT NULL, role TEXT NOT NULL, local INTEGER NOT NULL, began REAL NOT NULL,
    seen REAL NOT NULL);
CREATE TABLE IF NOT EXISTS first_token (hash TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS attempt (key TEXT PRIMARY KEY, failures INTEGER NOT NULL, until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS known_place (user TEXT NOT NULL COLLATE NOCASE, address TEXT NOT NULL,
    PRIMARY KEY (user, address));
CREATE TABLE IF NOT EXISTS sign_on (
    state TEXT PRIMARY KEY, browser TEXT NOT NULL, nonce TEXT NOT NULL, verifier TEXT NOT NULL, goal TEXT NOT NULL,
    began REAL NOT NULL);
"""


class Database(SharedDatabase):
    """The page's database.

    Raises:
        OutputError: the folder cannot be written, the file is not such a database, or it was written by a newer
            version.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "database of a page", _create_tables)
        self.together = SharedCommit[None](self._lock, self.writing)

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows that a query finds in committed data."""
        with self.reading() as connection:
            return connection.execute(query, values).fetchall()


def _create_tables(database: sqlite3.Connection) -> None:
    database.executescript(f"{_SCHEMA}{record.SCHEMA}")


def digest(secret: str) -> str:
    """Hash under which a random secret is stored; it needs no salt, since 2^256 values cannot be tried."""
    return hashlib.sha256(secret.encode()).hexdigest()
