"""UIDs: reproducible ones, derived from what they identify (PS3.5 B.2), and references to instances by theirs."""

from __future__ import annotations

import hashlib
import uuid

from pydicom.dataset import Dataset


def uid_of(*parts: object) -> str:
    """UID (2.25, from a UUID) derived from the parts, so that a repeated step creates the same."""
    digest = hashlib.sha256("\n".join(map(str, ("med_transfer", *parts))).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"


def sop_reference(sop_class: str, sop_uid: str) -> Dataset:
    """Item that refers to an instance: SOP Instance Reference Macro, PS3.3 table 10-11."""
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = sop_class, sop_uid
    return reference
