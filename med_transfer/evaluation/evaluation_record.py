"""``evaluation.json`` records the bundle and cohort of an evaluation folder, so that others do not overwrite it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from med_transfer.atomic import write_text
from med_transfer.bundle import BundleRecord
from med_transfer.cohorts import Cohort
from med_transfer.errors import UsageError

RECORD_FILE = "evaluation.json"


class EvaluationRecord(BaseModel):
    """Bundle and cohort of an evaluation.

    Attributes:
        bundle: ``lock_hash`` of the bundle, which changes with any decision or weight.
        cohort: hash of the table's absolute path, as the path may contain a patient's name. It does not depend on the
            content, so labels and rows may be corrected and evaluated again. For a cohort made in Python, hash of its
            scans' paths and series in any order, so labels alone may be corrected; empty in older records.
    """

    model_config = ConfigDict(frozen=True)
    schema_version: int = 1
    bundle: str
    cohort: str

    @classmethod
    def of(cls, record: BundleRecord, cohort: Cohort) -> EvaluationRecord:
        """Return the record of a bundle evaluated on a cohort."""
        scans = sorted(f"{case.path.resolve()}\n{case.series_uid}" for case in cohort.cases)
        identity = "\n".join(scans) if cohort.path is None else str(Path(cohort.path).resolve())
        return cls(
            bundle=record.lock_hash, cohort=hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
        )

    def claim(self, folder: Path) -> None:
        """Write the record into the folder.

        Raises:
            UsageError: the folder holds the evaluation of another bundle or cohort.
            OutputError: the record cannot be written.
        """
        there = self._read(folder)
        other = [name for name in ("bundle", "cohort") if there and getattr(there, name) != getattr(self, name)]
        if other:
            raise UsageError(
                f"the folder holds an evaluation of another {' and another '.join(other)}",
                where=folder,
                expected="a new folder, or one with an evaluation of this bundle on this cohort",
                action="Choose another -o",
            )
        write_text(folder / RECORD_FILE, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def _read(cls, folder: Path) -> EvaluationRecord | None:
        """Read a folder's record; None if it is damaged or missing, as in folders of older versions."""
        try:
            return cls.model_validate_json((folder / RECORD_FILE).read_bytes())
        except (OSError, ValidationError):
            return None
