"""UIDs that follow from what they name: made again after a kill, they are the same. Source: DICOM PS3.5 B.2."""

from __future__ import annotations

import hashlib
import uuid


def uid_of(*parts: object) -> str:
    """The UID of these parts."""
    digest = hashlib.sha256("\n".join(map(str, ("med_transfer", *parts))).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"
