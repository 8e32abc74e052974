"""Read files that an earlier step of a job wrote into its folder, and detect damaged ones."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from med_transfer.errors import ConfigError, UsageError

# Errors that reading a damaged file may raise: JSON, a journal, arrays of NumPy, PyTorch or safetensors.
DAMAGED = (
    *(ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, EOFError, RuntimeError, OSError),
    *(pickle.UnpicklingError, zipfile.BadZipFile, SafetensorError),
)


@contextmanager
def left_behind(file: Path, remove: str = "it") -> Iterator[None]:
    """Context in which such a file is read; errors of a damaged file are raised as UsageError.

    Args:
        file: the file that is read.
        remove: what the user must delete so that the same command writes the file again.

    Raises:
        UsageError: the file cannot be read, or is not what this version would have written.
    """
    try:
        yield
    except (*DAMAGED, ConfigError) as error:
        reason = error.strerror if isinstance(error, OSError) else getattr(error, "found", None)
        raise UsageError(
            f"cannot be read ({reason})" if reason else "is damaged",
            where=getattr(error, "where", file),
            expected="what the run has written there",
            action=f"Remove {remove}, and the same command makes it again, or choose another -o",
        ) from error


def require_whole(archive: Path) -> None:
    """Verify the CRC checksums of a PyTorch file, which PyTorch itself ignores. Raises BadZipFile, OSError."""
    with zipfile.ZipFile(archive) as file:
        if (broken := file.testzip()) is not None:
            raise zipfile.BadZipFile(f"{broken} is not as it was written")


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record to be written as JSON, with its SHA-256 added."""
    return {**record, "sha256": _hash_of(record)}


def unsealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Verify a record made by :func:`sealed` and return it without its hash; earlier versions wrote no hash.

    Raises:
        ValueError: the hash does not match.
    """
    content = {key: value for key, value in record.items() if key != "sha256"}
    if record.get("sha256") not in (None, _hash_of(content)):
        raise ValueError("not as it was written")
    return content


def _hash_of(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()
