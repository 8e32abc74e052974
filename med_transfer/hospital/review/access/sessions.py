"""Sessions: a random value in a cookie, stored here as a hash, valid for a limited time.

Source: OWASP Session Management Cheat Sheet; NIST SP 800-63B 7.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from typing import get_args

from med_transfer.hospital.review.access.database import Database, digest
from med_transfer.hospital.settings.page import ReviewPage, Role

ROLES: tuple[Role, ...] = get_args(Role)
SEEN_SECONDS = 30.0  # shortest interval at which a user's activity is stored


@dataclass(frozen=True)
class Session:
    """A signed-in user.

    Attributes:
        user: user name.
        role: the user's role.
        csrf: token for every form and, as header ``X-CSRF-Token``, for every fetch that changes something.
        quiet_seconds: time since the user's activity was last stored.
    """

    user: str
    role: Role
    csrf: str
    quiet_seconds: float = 0.0

    def may(self, role: Role) -> bool:
        """Whether the user has at least this role."""
        return ROLES.index(self.role) >= ROLES.index(role)


def new_secret() -> str:
    """256 random bits, as URL-safe text."""
    return secrets.token_urlsafe(32)


def csrf_token(cookie: str) -> str:
    """CSRF token derived from the cookie, so that only the page and the holder of the cookie can compute it."""
    return hashlib.sha256(b"csrf " + cookie.encode()).hexdigest()


def is_csrf_token(given: str, cookie: str) -> bool:
    """Whether the token belongs to the cookie; compared in constant time."""
    return bool(cookie) and hmac.compare_digest(given.encode(), csrf_token(cookie).encode())


class Sessions:
    """The table of sessions."""

    def __init__(self, database: Database, page: ReviewPage) -> None:
        self._database = database
        self._local = page.oidc is None
        self._idle_seconds, self._seconds = page.idle_minutes * 60, page.session_hours * 3600

    def begin(self, user: str, role: Role, *, local: bool) -> str:
        """Start a session and return its secret for the cookie; deletes expired sessions."""
        secret, now = new_secret(), time.time()
        with self._database.writing() as database:
            self._delete_expired(database, now)
            row = (digest(secret), user, role, int(local), now, now)
            database.execute("INSERT INTO session VALUES (?, ?, ?, ?, ?, ?)", row)
        return secret

    def end(self, secret: str) -> None:
        """Sign out."""
        with self._database.writing() as database:
            database.execute("DELETE FROM session WHERE hash = ?", (digest(secret),))

    def find(self, secret: str) -> Session | None:
        """The session with this secret and the user's present role; None if it is unknown or expired.

        Also None if it began by another way to sign in than that of node.yaml.
        """
        rows = self._database.rows(
            "SELECT session.user, CASE local WHEN 1 THEN user.role ELSE session.role END, began, seen FROM session "
            "LEFT JOIN user ON local AND user.name = session.user WHERE hash = ? AND local = ?",
            *(digest(secret), self._local),
        )
        now = time.time()
        if not rows:
            return None
        user, role, began, seen = rows[0]
        if role not in ROLES or not self._is_valid(began, seen, now):
            return None
        return Session(user, role, csrf_token(secret), now - seen)

    def seen(self, secret: str) -> None:
        """Store that the user is active."""
        with self._database.writing() as database:
            database.execute("UPDATE session SET seen = ? WHERE hash = ?", (time.time(), digest(secret)))

    def _is_valid(self, began: float, seen: float, now: float) -> bool:
        return began <= now + 60 and now - began < self._seconds and now - seen < self._idle_seconds

    def _delete_expired(self, database, now: float) -> None:
        over = (now - self._seconds, now - self._idle_seconds)
        database.execute("DELETE FROM session WHERE began < ? OR seen < ?", over)
