"""What a report was made of, as a file beside it, so that it can be written again: in another language, for example."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from med_transfer.atomic import write_text
from med_transfer.errors import UsageError
from med_transfer.errors.sentence import IN_PARTS
from med_transfer.metrics.records.metrics import Metrics
from med_transfer.report.evidence import Evidence
from med_transfer.report.run_summary import LearningCurve, MapChecks, Miss, RunSummary

EVIDENCE_FILE = "report_files/evidence.json"


class SavedEvidence(BaseModel):
    """Evidence with lists for arrays, and numbers for patients: this file names nobody."""

    model_config = ConfigDict(extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    metrics: Metrics
    run: RunSummary
    curves: tuple[LearningCurve, ...]
    misses: tuple[Miss, ...]
    map_checks: MapChecks | None
    truth: list[list[bool]] | None
    probabilities: list[list[float]] | None
    patients: list[str]


def save_evidence(folder: Path, evidence: Evidence) -> None:
    """Write what a report in ``folder`` is made of. Raises OutputError."""
    numbers = {name: str(number) for number, name in enumerate(dict.fromkeys(evidence.patients))}
    arrays = {"truth": evidence.truth, "probabilities": evidence.probabilities}
    saved = SavedEvidence(
        metrics=evidence.metrics,
        run=evidence.run,
        curves=tuple(evidence.curves),
        misses=tuple(evidence.misses),
        map_checks=evidence.map_checks,
        patients=[numbers[name] for name in evidence.patients],
        **{name: None if array is None else array.tolist() for name, array in arrays.items()},
    )
    write_text(folder / EVIDENCE_FILE, saved.model_dump_json(by_alias=True, context=IN_PARTS) + "\n")


def load_evidence(folder: Path) -> Evidence:
    """What the report in ``folder`` was made of. Raises UsageError where that is not there, or of another version."""
    file = Path(folder) / EVIDENCE_FILE
    try:
        saved = SavedEvidence.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        found = "not there" if isinstance(error, OSError) else f"{error.error_count()} entries are of another version"
        raise UsageError(
            found,
            where=file,
            expected="a run or evaluation of this version",
            action="The same finetune or evaluate again on that folder writes it; a finished run is not trained again",
        ) from error
    return Evidence(
        metrics=saved.metrics,
        run=saved.run,
        curves=saved.curves,
        misses=saved.misses,
        map_checks=saved.map_checks,
        truth=None if saved.truth is None else np.array(saved.truth, dtype=bool),
        probabilities=None if saved.probabilities is None else np.array(saved.probabilities),
        patients=saved.patients,
    )
