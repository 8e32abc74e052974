"""``source.lock.json`` records whose scans a pretraining used, so that no model built on it is evaluated on them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from med_transfer.atomic import write_text
from med_transfer.errors import CohortError

SCHEMA = 1
SOURCE_LOCK_FILE = "source.lock.json"


class SourceLock(BaseModel):
    """Hashes of patients and scans, without identifiers.

    Attributes:
        patient_hashes: hashes of the known patients, see :mod:`~med_transfer.cohorts.hashed_names`.
        content_hashes: ``Volume.content_hash`` of every scan.
        source_hash: SHA-256 of all other fields.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: int = Field(default=SCHEMA, alias="schema")
    patient_hashes: tuple[str, ...]
    content_hashes: tuple[str, ...]
    source_hash: str = ""

    @classmethod
    def of(cls, patient_hashes: set[str], content_hashes: set[str]) -> SourceLock:
        """Record the scans that were used; empty hashes (unknown patients) are left out."""
        lock = cls(patient_hashes=tuple(sorted(patient_hashes - {""})), content_hashes=tuple(sorted(content_hashes)))
        return lock.model_copy(update={"source_hash": lock.computed_hash()})

    @classmethod
    def parse(cls, text: str | bytes, where: object) -> SourceLock:
        """Parse and verify a lock. Raises CohortError if it is invalid or was edited."""
        try:
            lock = cls.model_validate_json(text)
        except ValidationError as error:
            raise CohortError(f"is not a source lock ({error.error_count()} problems)", where=where) from error
        if lock.schema_version != SCHEMA:
            raise CohortError(f"schema {lock.schema_version}", where=where, expected=f"schema {SCHEMA}")
        if lock.source_hash != lock.computed_hash():
            raise CohortError("does not match its own hash: it was edited or damaged", where=where)
        return lock

    @classmethod
    def read(cls, path: Path) -> SourceLock:
        """Read a lock file. Raises CohortError."""
        try:
            return cls.parse(path.read_bytes(), path)
        except OSError as error:
            raise CohortError(error.strerror or "cannot be read", where=path, expected="a source lock") from error

    def write(self, path: Path) -> None:
        """Write the lock atomically. Raises OutputError."""
        write_text(path, self.model_dump_json(by_alias=True, indent=2) + "\n")

    def computed_hash(self) -> str:
        """Return the SHA-256 of everything in the lock but the hash itself."""
        content = self.model_dump(mode="json", by_alias=True, exclude={"source_hash"})
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
