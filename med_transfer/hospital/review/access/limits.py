"""Rate limit of sign-in attempts: after some failures each further attempt must wait, twice as long as the one before.

Failures count for three keys: a name from an address, an address (with IPv6 its network), and a name. For a name that
has signed in from the address before, only the first applies, so that others' guesses cannot lock out a user at their
usual place. No wait is longer than a quarter of an hour. Source: OWASP Authentication Cheat Sheet; NIST SP 800-63B
5.2.2.
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time

from med_transfer.hospital.review.access.database import Database, digest

_FREE = {"pair": 5, "user": 20, "address": 40}  # number of failures after which the first wait begins
_LONGEST_SECONDS, _FORGET_SECONDS = 900.0, 86400.0


class Limits:
    """The table of failed attempts, which persists across restarts.

    Attributes:
        in_turn: lock to be held from the check of the wait until the outcome is counted, so that guesses sent in
            parallel gain nothing over guesses sent one after another.
    """

    def __init__(self, database: Database) -> None:
        self._database, self.in_turn = database, threading.Lock()

    def wait_seconds(self, user: str, address: str) -> float:
        """Seconds until the next attempt will be considered; 0 if it need not wait."""
        known = self._database.rows("SELECT 1 FROM known_place WHERE user = ? AND address = ?", user, address)
        keys = list(_keys(user, address).values())[: 1 if known else None]
        marks, now = ", ".join("?" for _ in keys), time.time()
        ((until,),) = self._database.rows(f"SELECT max(until) FROM attempt WHERE key IN ({marks})", *keys)
        return min(_LONGEST_SECONDS, max(0.0, (until or 0.0) - now))

    def failed(self, user: str, address: str) -> None:
        """Count a failed attempt."""
        now = time.time()
        with self._database.writing() as database:
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
        """Remember that this name has signed in from this address, and forget its failures there."""
        with self._database.writing() as database:
            database.execute("INSERT OR IGNORE INTO known_place VALUES (?, ?)", (user, address))
            database.execute("DELETE FROM attempt WHERE key = ?", (_keys(user, address)["pair"],))


def _keys(user: str, address: str) -> dict[str, str]:
    """Keys under which failures count, as hashes, since a name may be a password typed into the wrong field.

    Tokens and single sign-on have no name, so that there is no key "user": all addresses would share it, and one could
    block the others.
    """
    name = user.casefold()
    keys = {"pair": f"pair {address} {name}", "user": f"user {name}", "address": f"address {_network(address)}"}
    return {kind: digest(key) for kind, key in keys.items() if name or kind != "user"}


def _network(address: str) -> str:
    """The IPv6 network of 2^64 addresses, any of which a machine may take; an IPv4 address as it is."""
    network = address.partition("%")[0]
    return str(ipaddress.ip_network(f"{network}/64", strict=False)) if ":" in network else address
