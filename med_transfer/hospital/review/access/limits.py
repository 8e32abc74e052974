"""How often somebody may guess: after some failures each next one must wait, twice as long as the one before.

Failures count for three keys: a name from an address, an address, a name. Only the first holds back who has signed in
from this address before, so that guesses of others lock nobody out who works where they always do; and no wait is
longer than a quarter of an hour. Source: OWASP Authentication Cheat Sheet; NIST SP 800-63B 5.2.2.
"""

from __future__ import annotations

import math
import threading
import time

from med_transfer.hospital.review.access.database import Database, digest

_FREE = {"pair": 5, "user": 20, "address": 40}  # failures without a wait
_LONGEST_SECONDS, _FORGET_SECONDS = 900.0, 86400.0


class Limits:
    """The table of attempts; it outlives a restart.

    Attributes:
        in_turn: held from the question whether to wait until the answer is counted: of many guesses that are sent at
            once no more are looked at than of those that are sent one after another.
    """

    def __init__(self, database: Database) -> None:
        self._database, self.in_turn = database, threading.Lock()

    def wait_seconds(self, user: str, address: str) -> float:
        """Before a next attempt is looked at at all; 0: none."""
        known = self._database.rows("SELECT 1 FROM known_place WHERE user = ? AND address = ?", user, address)
        keys = list(_keys(user, address).values())[: 1 if known else None]
        marks, now = ", ".join("?" for _ in keys), time.time()
        ((until,),) = self._database.rows(f"SELECT max(until) FROM attempt WHERE key IN ({marks})", *keys)
        return min(_LONGEST_SECONDS, max(0.0, (until or 0.0) - now))

    def failed(self, user: str, address: str) -> None:
        """Once more."""
        now = time.time()
        with self._database.transaction() as database:
            database.execute("DELETE FROM attempt WHERE until < ?", (now - _FORGET_SECONDS,))
            for kind, key in _keys(user, address).items():
                (failures,) = database.execute(
                    "INSERT INTO attempt VALUES (?, 1, ?) ON CONFLICT DO UPDATE SET failures = failures + 1 "
                    "RETURNING failures",
                    (key, now),
                ).fetchone()
                over = failures - _FREE[kind]
                wait = min(_LONGEST_SECONDS, math.ldexp(1.0, min(over, 20))) if over >= 0 else 0.0
                database.execute("UPDATE attempt SET until = ? WHERE key = ?", (now + wait, key))

    def succeeded(self, user: str, address: str) -> None:
        """This name belongs to this address, and its failures there are forgotten."""
        with self._database.transaction() as database:
            database.execute("INSERT OR IGNORE INTO known_place VALUES (?, ?)", (user, address))
            database.execute("DELETE FROM attempt WHERE key = ?", (_keys(user, address)["pair"],))


def _keys(user: str, address: str) -> dict[str, str]:
    """As hashes: what somebody takes for a name may be a password in the wrong field.

    A token and single sign-on have no name, which all addresses would share: one could hold back the others.
    """
    name = user.casefold()
    said = {"pair": f"pair {address} {name}", "user": f"user {name}", "address": f"address {address}"}
    return {kind: digest(key) for kind, key in said.items() if name or kind != "user"}
