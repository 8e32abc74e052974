"""metrics.json: everything that was measured, as a program reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from med_transfer.atomic import write_text
from med_transfer.errors import UsageError
from med_transfer.evaluation.calibration import Calibration
from med_transfer.evaluation.estimate import Estimate, Record
from med_transfer.evaluation.rates import Counts
from med_transfer.operating_point import OperatingPoint

SCHEMA_VERSION = "1"


class ClassMetrics(Record):
    """One class against the rest, at the operating point.

    Attributes:
        n, n_patients: test scans of the class, and the patients they come from.
        counts: the 2 x 2 table in scans.
    """

    n: int
    n_patients: int
    counts: Counts
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate
    auc: Estimate


class BaselineMetrics(Record):
    """A baseline on the same scans.

    Attributes:
        sensitivity: by class.
        macro_auc_gain, balanced_accuracy_gain: the network minus this baseline, paired.
    """

    balanced_accuracy: Estimate
    macro_auc: Estimate
    brier: Estimate
    sensitivity: dict[str, Estimate]
    macro_auc_gain: Estimate
    balanced_accuracy_gain: Estimate


class Subgroup(Record):
    """The network among the scans of one subgroup; measures are null below the smallest size reported."""

    n: int
    n_patients: int
    balanced_accuracy: Estimate
    macro_auc: Estimate
    sensitivity: dict[str, Estimate]


class TransferGain(Record):
    """What pretraining brought over the same network trained from scratch at equal budget.

    Attributes:
        balanced_sensitivity, macro_auc: transferred minus scratch, paired.
        verdict: ``gain``, ``none`` (no difference shown) or ``harm`` (negative transfer).
    """

    balanced_sensitivity: Estimate
    macro_auc: Estimate
    verdict: Literal["gain", "none", "harm"]
    n_patients: int
    method: str


class Failed(Record):
    """Scans that gave no prediction; they are in no rate of this file."""

    n: int = 0
    reasons: dict[str, int] = Field(default_factory=dict)


class Bootstrap(Record):
    """How the resampled intervals can be had again."""

    n_boot: int
    seed: int


class Metrics(Record):
    """metrics.json.

    Attributes:
        schema_version: ``schema`` in the file.
        labels: class names in the order of the confusion matrix.
        n_scans, n_patients: test scans that have a prediction, and their patients.
        confusion_matrix: scans by true class (row) and called class (column); null for several findings a scan.
        prevalence: share of the test scans that have the class.
        subgroups: column to value to measures.
    """

    schema_version: Literal["1"] = Field(default=SCHEMA_VERSION, alias="schema")
    labels: list[str]
    multilabel: bool
    n_scans: int
    n_patients: int
    classes: dict[str, ClassMetrics]
    balanced_accuracy: Estimate
    macro_auc: Estimate
    confusion_matrix: list[list[int]] | None
    prevalence: dict[str, float]
    calibration: Calibration
    operating_point: OperatingPoint
    baselines: dict[str, BaselineMetrics] = Field(default_factory=dict)
    subgroups: dict[str, dict[str, Subgroup]] = Field(default_factory=dict)
    transfer_gain: TransferGain | None = None
    failed: Failed = Failed()
    bootstrap: Bootstrap

    def save(self, path: Path | str) -> None:
        """Write metrics.json whole or not at all. Raises OutputError when it cannot be written."""
        write_text(Path(path), self.model_dump_json(indent=2, by_alias=True) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Metrics:
        """Read metrics.json. Raises UsageError when the file is absent or is not of this schema."""
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise UsageError("cannot be read", where=path, expected="a metrics.json") from error
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "file"
            raise UsageError(
                f"{error.error_count()} entries do not fit, first {key}: {first['msg']}",
                where=path,
                expected=f"a metrics.json of schema {SCHEMA_VERSION}",
                action="Run evaluate again",
            ) from error
