"""On-disk cache of results computed from scans: arrays and a record, in a file named by a hash of the inputs.

A checksum in each file detects damage.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from med_transfer.atomic import write_bytes
from med_transfer.cohorts.left_behind import DAMAGED
from med_transfer.scans.volume import bytes_of


@dataclass(frozen=True)
class CacheEntry:
    """Arrays by name, and a record of JSON values."""

    arrays: Mapping[str, NDArray]
    record: Mapping[str, Any]


@dataclass(frozen=True)
class ArrayCache:
    """A folder of ``KEY.safetensors`` files, each written atomically, so that processes can share the folder."""

    folder: Path

    def read(self, key: str) -> CacheEntry | None:
        """Return the entry stored under a key of :func:`cache_key`; None if it is missing or damaged."""
        path = self.folder / f"{key}.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="np") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
                metadata = file.metadata() or {}
            record = metadata.get("record", "{}")
            whole = metadata.get("sha256") in (None, _hash_of(arrays, record))  # earlier versions wrote no hash
            return CacheEntry(arrays, json.loads(record)) if whole else None
        except DAMAGED:
            return None

    def write(self, key: str, arrays: Mapping[str, NDArray], record: Mapping[str, Any] | None = None) -> None:
        """Store an entry, replacing an earlier one. Raises OutputError."""
        contiguous = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
        text = json.dumps(dict(record or {}))
        content = save(contiguous, metadata={"record": text, "sha256": _hash_of(contiguous, text)})
        write_bytes(self.folder / f"{key}.safetensors", content)


def _hash_of(arrays: Mapping[str, NDArray], record: str) -> str:
    digest = hashlib.sha256(record.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(bytes_of(array))
    return digest.hexdigest()


def cache_key(*made_from: object) -> str:
    """Return the key, 32 hex digits, of JSON values that name everything an entry depends on."""
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:32]
