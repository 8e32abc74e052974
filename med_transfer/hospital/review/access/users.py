"""Users with a password for this page: argon2id, no default password, and a one-time token for the first operator."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from med_transfer.errors import UsageError
from med_transfer.hospital.review.access.database import Database, digest
from med_transfer.hospital.settings.page import Role

SHORTEST, LONGEST = 12, 512  # characters of a password
_NAME = "._-@"  # allowed in a name, in addition to letters and digits
_HASHING_SLOTS = threading.BoundedSemaphore(2)  # hashing takes 64 MiB and a core each


@dataclass(frozen=True)
class User:
    """A user; ``name`` appears in the audit record."""

    name: str
    role: Role


class Users:
    """The table of users."""

    def __init__(self, database: Database) -> None:
        self._database, self._hasher = database, PasswordHasher()
        self._nobody = self._hasher.hash(secrets.token_urlsafe())

    def all(self) -> list[User]:
        """All users, sorted by name."""
        return [User(*row) for row in self._database.rows("SELECT name, role FROM user ORDER BY name")]

    def find(self, name: str) -> User | None:
        """The user with this name, case-insensitive, or None."""
        rows = self._database.rows("SELECT name, role FROM user WHERE name = ?", name)
        return User(*rows[0]) if rows else None

    def put(self, name: str, role: Role, password: str) -> None:
        """Add a user, or set a user's role and password; ends all their sessions.

        Raises:
            UsageError: the name or password is not allowed.
        """
        hashed = self._hashed(name, password)
        with self._database.writing() as database:
            database.execute("DELETE FROM session WHERE local AND user = ? COLLATE NOCASE", (name,))
            database.execute(
                "INSERT INTO user VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET role = excluded.role, "
                "password = excluded.password",
                (name, role, hashed),
            )

    def remove(self, name: str) -> bool:
        """Remove a user and end their sessions; return False if there is no such user."""
        with self._database.writing() as database:
            database.execute("DELETE FROM session WHERE local AND user = ? COLLATE NOCASE", (name,))
            return bool(database.execute("DELETE FROM user WHERE name = ?", (name,)).rowcount)

    def verified(self, name: str, password: str) -> User | None:
        """The user if the password is right, else None. Takes as long for an unknown name, so as not to reveal it."""
        rows = self._database.rows("SELECT name, role, password FROM user WHERE name = ?", name)
        hashed = rows[0][2] if rows else self._nobody
        with _HASHING_SLOTS:
            try:
                right = len(password) <= LONGEST and self._hasher.verify(hashed, password)
            except (VerificationError, InvalidHashError):
                right = False
        return User(rows[0][0], rows[0][1]) if rows and right else None

    def first_token(self) -> str | None:
        """Create a token for creating the first operator, and invalidate the previous one; None if there are users."""
        token = secrets.token_urlsafe(32)
        with self._database.writing() as database:
            database.execute("DELETE FROM first_token")
            if database.execute("SELECT 1 FROM user LIMIT 1").fetchone():
                return None
            database.execute("INSERT INTO first_token VALUES (?)", (digest(token),))
        return token

    def put_first(self, token: str, name: str, password: str) -> User | None:
        """Create the first operator; None if the token is wrong or used, or there are users already.

        Raises:
            UsageError: the name or password is not allowed.
        """
        hashed = self._hashed(name, password)
        with self._database.writing() as database:
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
            raise UsageError("a password is not the user name, nor a few characters repeated")
        with _HASHING_SLOTS:
            return self._hasher.hash(password)
