"""Every run against a reference, on the test scans that it shares with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from med_transfer.comparison.finished_run import FinishedRun, shared_scans
from med_transfer.errors import UsageError
from med_transfer.evaluation import Estimate, Metrics
from med_transfer.evaluation.comparison import paired_difference
from med_transfer.evaluation.intervals import PatientBootstrap
from med_transfer.evaluation.paired_tests import PairedTest, corrected, delong_test, mcnemar


@dataclass(frozen=True)
class Comparison:
    """One run against the reference: differences are this run minus the reference; None for the reference itself.

    Attributes:
        metrics: of the run, on its own test scans.
        n_shared: test scans that both runs predicted: the differences and tests are about these.
        n_reference: test scans that the reference predicted.
        sensitivity: difference by class.
        delong, mcnemar: second opinions, with Holm's correction over the runs that were compared.
    """

    run: Path
    metrics: Metrics
    n_shared: int
    n_reference: int
    macro_auc: Estimate | None = None
    balanced_sensitivity: Estimate | None = None
    sensitivity: dict[str, Estimate] = field(default_factory=dict)
    delong: PairedTest | None = None
    mcnemar: PairedTest | None = None

    @property
    def is_reference(self) -> bool:
        return self.macro_auc is None

    @property
    def same_scans(self) -> bool:
        """Whether both runs predicted exactly the same test scans."""
        return self.n_shared == self.n_reference == self.metrics.n_scans

    def as_record(self) -> dict[str, object]:
        """For a program: plain values."""
        records = {
            "macro_auc": self.metrics.macro_auc,
            "balanced_sensitivity": self.metrics.balanced_accuracy,
            "macro_auc_difference": self.macro_auc,
            "balanced_sensitivity_difference": self.balanced_sensitivity,
            "delong": self.delong,
            "mcnemar": self.mcnemar,
        }
        by_class = {name: one.model_dump(mode="json") for name, one in self.sensitivity.items()}
        counts = {"n_shared": self.n_shared, "n_reference": self.n_reference, "n_scans": self.metrics.n_scans}
        plain = {name: record and record.model_dump(mode="json") for name, record in records.items()}
        return {"run": str(self.run), **counts, **plain, "sensitivity_difference": by_class or None}


def compare_runs(
    runs: Sequence[Path], *, reference: Path | None = None, seed: int = 0, n_boot: int = 2000
) -> list[Comparison]:
    """Each run's metrics and its paired difference to the reference, resampling patients. The reference comes first.

    Runs whose test scans differ are compared on those that they share with the reference; how many is recorded.

    Args:
        reference: one of the runs, or another; None: the first.

    Raises:
        UsageError: fewer than two runs, a folder that is no finished run, other classes or labels, or no shared test
            scans.
    """
    if reference is not None:
        runs = [reference, *(run for run in runs if run.resolve() != reference.resolve())]
    if len(runs) < 2:
        raise UsageError(f"{len(runs)} run", expected="at least two to compare")
    first, *others = [FinishedRun.read(run) for run in runs]
    n = len(first.predictions)
    compared = [_against(first, other, seed, n_boot) for other in others]
    delongs = corrected([one.delong for one in compared if one.delong])
    mcnemars = corrected([one.mcnemar for one in compared if one.mcnemar])
    result = [
        replace(one, delong=d, mcnemar=m) for one, d, m in zip(compared, delongs, mcnemars, strict=True)
    ]  # fmt: skip
    return [Comparison(first.folder, first.metrics, n, n), *result]


def _against(reference: FinishedRun, other: FinishedRun, seed: int, n_boot: int) -> Comparison:
    ours, theirs = shared_scans(reference, other)
    difference = paired_difference(theirs, ours, PatientBootstrap(ours.patients, n_boot, seed))
    return Comparison(
        other.folder,
        other.metrics,
        n_shared=len(ours),
        n_reference=len(reference.predictions),
        macro_auc=difference.macro_auc,
        balanced_sensitivity=difference.balanced_accuracy,
        sensitivity=difference.sensitivity,
        delong=delong_test(theirs, ours),
        mcnemar=mcnemar(theirs, ours),
    )
