"""People with a password of this page: argon2id, no default password, a one-time token for the first of them."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from med_transfer.errors import UsageError
from med_transfer.hospital.config import Role
from med_transfer.hospital.review.access.database import Database, digest

SHORTEST, LONGEST = 12, 512  # characters of a password
_NAME = "._-@"  # in a name, beside letters and digits
_AT_ONE_TIME = threading.BoundedSemaphore(2)  # hashing takes 64 MiB and a core each


@dataclass(frozen=True)
class User:
    """``name`` goes into the audit record."""

    name: str
    role: Role


class Users:
    """The table of users."""

    def __init__(self, database: Database) -> None:
        self._database, self._hasher = database, PasswordHasher()
        self._nobody = self._hasher.hash(secrets.token_urlsafe())

    def all(self) -> list[User]:
        """By name."""
        return [User(*row) for row in self._database.rows("SELECT name, role FROM user ORDER BY name")]

    def find(self, name: str) -> User | None:
        """Whatever the case of the letters."""
        rows = self._database.rows("SELECT name, role FROM user WHERE name = ?", name)
        return User(*rows[0]) if rows else None

    def put(self, name: str, role: Role, password: str) -> None:
        """A new one, or a new role and password. All their sessions end. Raises UsageError."""
        hashed = self._hashed(name, password)
        with self._database.transaction() as database:
            database.execute("DELETE FROM session WHERE local AND user = ? COLLATE NOCASE", (name,))
            database.execute(
                "INSERT INTO user VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET role = excluded.role, "
                "password = excluded.password",
                (name, role, hashed),
            )

    def remove(self, name: str) -> bool:
        """And end their sessions; False where there is none."""
        with self._database.transaction() as database:
            database.execute("DELETE FROM session WHERE local AND user = ? COLLATE NOCASE", (name,))
            return bool(database.execute("DELETE FROM user WHERE name = ?", (name,)).rowcount)

    def verified(self, name: str, password: str) -> User | None:
        """Who gave the right password. Takes as long where there is no such name."""
        rows = self._database.rows("SELECT name, role, password FROM user WHERE name = ?", name)
        hashed = rows[0][2] if rows else self._nobody
        with _AT_ONE_TIME:
            try:
                right = len(password) <= LONGEST and self._hasher.verify(hashed, password)
            except (VerificationError, InvalidHashError):
                right = False
        return User(rows[0][0], rows[0][1]) if rows and right else None

    def first_token(self) -> str | None:
        """A token with which the first operator can be made; None where there are users. The one before ends."""
        token = secrets.token_urlsafe(32)
        with self._database.transaction() as database:
            database.execute("DELETE FROM first_token")
            if database.execute("SELECT 1 FROM user LIMIT 1").fetchone():
                return None
            database.execute("INSERT INTO first_token VALUES (?)", (digest(token),))
        return token

    def put_first(self, token: str, name: str, password: str) -> User | None:
        """The first operator; None where the token is not the one, or is used. Raises UsageError."""
        hashed = self._hashed(name, password)
        with self._database.transaction() as database:
            if database.execute("SELECT 1 FROM user LIMIT 1").fetchone():
                return None
            if not database.execute("DELETE FROM first_token WHERE hash = ?", (digest(token),)).rowcount:
                return None
            database.execute("INSERT INTO user VALUES (?, 'operator', ?)", (name, hashed))
        return User(name, "operator")

    def _hashed(self, name: str, password: str) -> str:
        if not 1 <= len(name) <= 64 or not all(letter.isalnum() or letter in _NAME for letter in name):
            raise UsageError("a name has 1 to 64 letters, digits and . _ - @")
        if not SHORTEST <= len(password) <= LONGEST:
            raise UsageError(f"a password has {SHORTEST} to {LONGEST} characters")
        if password.casefold() in (name.casefold(), name.casefold() * 2) or len(set(password)) < 5:
            raise UsageError("a password is not the name, nor a few characters over and over")
        with _AT_ONE_TIME:
            return self._hasher.hash(password)
