"""Pseudonyms of patients: a keyed hash of PatientID, and its key."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from contextlib import suppress
from pathlib import Path

from med_transfer.atomic import create_whole
from med_transfer.errors import CohortError


def pseudonym(patient: str, key: bytes) -> str:
    """HMAC-SHA-256 of an identifier, ``P`` and 12 hexadecimal digits; it cannot be traced back without the key."""
    return "P" + hmac.new(key, patient.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:12]


def own_key(path: Path) -> Path:
    """Create a random key file at ``path`` unless it exists, readable by its owner only; returns the path.

    Raises:
        OutputError: the file cannot be written.
    """
    with suppress(FileExistsError):
        create_whole(path, f"{secrets.token_hex(32)}\n".encode(), 0o600)
    return path


def read_key(path: Path) -> bytes:
    """Read a key of at least 16 bytes. Raises CohortError."""
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise CohortError(
            f"key cannot be read ({error.strerror})",
            where=path,
            expected="a file with a secret of at least 16 bytes",
            action="Name the key of an earlier index, or none to have one made beside the table",
        ) from error
    if len(key) < 16:
        raise CohortError(
            f"key of {len(key)} bytes", where=path, expected="at least 16", action="Make one: openssl rand -hex 32"
        )
    return key
