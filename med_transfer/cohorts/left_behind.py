"""Files that an earlier part of a job has left in its folder, for a later one to go on from."""

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

# What reading one may raise where it is not as it was written: JSON, a journal, arrays of NumPy, PyTorch, safetensors.
DAMAGED = (
    *(ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, EOFError, RuntimeError, OSError),
    *(pickle.UnpicklingError, zipfile.BadZipFile, SafetensorError),
)


@contextmanager
def left_behind(file: Path, remove: str = "it") -> Iterator[None]:
    """While it is read and taken over.

    Args:
        file: that is read.
        remove: what has to go for the same command to make the file again.

    Raises:
        UsageError: it is not what this version would have written there, or cannot be read.
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
    """Hold a file of PyTorch against its own check sums, at which PyTorch does not look. Raises BadZipFile, OSError."""
    with zipfile.ZipFile(archive) as file:
        if (broken := file.testzip()) is not None:
            raise zipfile.BadZipFile(f"{broken} is not as it was written")


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record that is to be written as JSON, with a hash of it."""
    return {**record, "sha256": _hash_of(record)}


def unsealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record that :func:`sealed` was given, read again; of an earlier version it has no hash.

    Raises:
        ValueError: it is not as it was written.
    """
    content = {key: value for key, value in record.items() if key != "sha256"}
    if record.get("sha256") not in (None, _hash_of(content)):
        raise ValueError("not as it was written")
    return content


def _hash_of(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()
