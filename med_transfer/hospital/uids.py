"""Reproducible UIDs, derived from what they identify, so that a repeated step creates the same. Source: PS3.5 B.2."""

from __future__ import annotations

import hashlib
import uuid


def uid_of(*parts: object) -> str:
    """UID (2.25, from a UUID) derived from the parts."""
    digest = hashlib.sha256("\n".join(map(str, ("med_transfer", *parts))).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"
