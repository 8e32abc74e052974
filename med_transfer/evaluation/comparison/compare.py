"""Compare every run with a reference, on the test scans that both predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from med_transfer.errors import UsageError
from med_transfer.evaluation.comparison.finished_run import (
    FinishedRun,
    Pairing,
    other_images,
    shared_scans,
    with_shared_folds,
)
from med_transfer.metrics.comparison import paired_difference
from med_transfer.metrics.intervals import PatientBootstrap
from med_transfer.metrics.non_inferiority import NonInferiority, checked_margin, non_inferiority
from med_transfer.metrics.paired_tests import PairedTest, corrected, delong_margin_test, delong_test, mcnemar
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.metrics.records.metrics import Metrics


@dataclass(frozen=True)
class Comparison:
    """Comparison of a run with the reference. Differences are run minus reference; None for the reference itself.

    Attributes:
        metrics: metrics of the run on its own test scans.
        n_shared: test scans that both runs predicted, on which differences and tests are computed.
        n_reference: test scans that the reference predicted.
        n_patients: patients of the shared scans; 0 for the reference, which is compared with nothing.
        sensitivity: difference by class.
        delong, mcnemar: tests as a second opinion, Holm-corrected over the compared runs.
        reported: whether probabilities of the ``network`` or the ``fused`` model are compared, as the run reports.
        margin: stated non-inferiority margin; None if none was stated.
        pairing: for two cross-validated runs: ``folds`` if all folds and repeats are equal, ``first repeat`` if only
            those of the first repeat are, which is then compared, else ``other folds``. For other runs ``test``.
        delong_margin: test of whether the macro AUC is less than the margin below the reference's, also corrected.
        n_other_images: shared scans whose voxels differ between the two runs.
    """

    run: Path
    metrics: Metrics
    n_shared: int
    n_reference: int
    n_patients: int = 0
    macro_auc: Estimate | None = None
    balanced_sensitivity: Estimate | None = None
    sensitivity: dict[str, Estimate] = field(default_factory=dict)
    delong: PairedTest | None = None
    mcnemar: PairedTest | None = None
    reported: str = "network"
    margin: float | None = None
    delong_margin: PairedTest | None = None
    pairing: Pairing = "test"
    n_other_images: int = 0

    @property
    def is_reference(self) -> bool:
        """Whether this is the run that the others are compared with."""
        return self.macro_auc is None

    @property
    def same_scans(self) -> bool:
        """Whether both runs predicted exactly the same test scans."""
        return self.n_shared == self.n_reference == self.metrics.n_scans

    @property
    def tests(self) -> list[PairedTest]:
        """The tests that were performed."""
        return [test for test in (self.delong, self.mcnemar, self.delong_margin) if test is not None]

    def held_to_margin(self, difference: Estimate) -> NonInferiority | None:
        """Return the non-inferiority verdict on one of the differences; None if no margin was stated."""
        return None if self.margin is None else non_inferiority(difference, self.margin, self.n_patients)

    def as_record(self) -> dict[str, object]:
        """Return the comparison as JSON values."""
        records = {
            "macro_auc": self.metrics.macro_auc,
            "balanced_sensitivity": self.metrics.balanced_accuracy,
            "macro_auc_difference": self.macro_auc,
            "balanced_sensitivity_difference": self.balanced_sensitivity,
            "delong": self.delong,
            "mcnemar": self.mcnemar,
            "delong_margin": self.delong_margin,
        }
        by_class = {name: difference.model_dump(mode="json") for name, difference in self.sensitivity.items()}
        counts = {"n_shared": self.n_shared, "n_reference": self.n_reference, "n_scans": self.metrics.n_scans}
        plain = {name: record and record.model_dump(mode="json") for name, record in records.items()}
        return {
            "run": str(self.run),
            "reported": self.reported,
            "pairing": self.pairing,
            **counts,
            "n_other_images": self.n_other_images,
            **plain,
            "sensitivity_difference": by_class or None,
            "margin": self.margin,
            "non_inferiority": self._verdicts(),
        }

    def _verdicts(self) -> dict[str, object] | None:
        if self.macro_auc is None or self.balanced_sensitivity is None or self.margin is None:
            return None

        def plain(difference: Estimate) -> dict[str, object] | None:
            verdict = self.held_to_margin(difference)
            return verdict and verdict.model_dump(mode="json")

        return {
            "macro_auc": plain(self.macro_auc),
            "balanced_sensitivity": plain(self.balanced_sensitivity),
            "sensitivity": {name: plain(difference) for name, difference in self.sensitivity.items()},
        }


def compare_runs(
    runs: Sequence[Path],
    *,
    reference: Path | None = None,
    margin: float | None = None,
    seed: int = 0,
    n_boot: int = 2000,
) -> list[Comparison]:
    """Return each run's metrics and its paired differences to the reference, which comes first.

    Runs whose test scans differ are compared on those shared with the reference, and their number is recorded.

    Args:
        runs: folders of finished runs.
        reference: one of the runs, or another; None takes the first.
        margin: non-inferiority margin, the largest loss in AUC or sensitivity that would not matter, in (0, 1).
        seed, n_boot: seed and draws of the patient bootstrap.

    Raises:
        UsageError: there are fewer than two runs, the margin is out of range, a folder is not a finished run, classes,
            labels or patients differ, no test scans are shared, or a run lacks the probabilities that it reports.
    """
    if reference is not None:
        runs = [reference, *(run for run in runs if run.resolve() != reference.resolve())]
    distinct: dict[Path, Path] = {}
    for run in runs:
        distinct.setdefault(run.resolve(), run)  # each counts in the correction of the p values, so a copy must not
    runs = list(distinct.values())
    if len(runs) < 2:
        raise UsageError(f"{len(runs)} run", expected="at least two to compare")
    if margin is not None:
        checked_margin(margin)
    first, *other_runs = [FinishedRun.read(run) for run in runs]
    n = len(first.predictions)
    compared = [_compare_to_reference(first, other, margin, seed, n_boot) for other in other_runs]
    for test in ("delong", "mcnemar", "delong_margin"):
        compared = _corrected(compared, test)
    return [Comparison(first.folder, first.metrics, n, n, reported=first.reported, margin=margin), *compared]


def _corrected(compared: Sequence[Comparison], test: str) -> list[Comparison]:
    """Apply Holm's correction to one test over the runs; either every run has it, or none."""
    tests = [paired_test for comparison in compared if (paired_test := getattr(comparison, test)) is not None]
    if not tests:
        return list(compared)
    return [
        replace(comparison, **{test: paired_test})
        for comparison, paired_test in zip(compared, corrected(tests), strict=True)
    ]


def _compare_to_reference(
    reference: FinishedRun, other: FinishedRun, margin: float | None, seed: int, n_boot: int
) -> Comparison:
    reference, other, pairing = with_shared_folds(reference, other)
    ours, theirs = shared_scans(reference, other)
    difference = paired_difference(theirs, ours, PatientBootstrap(ours.patients, n_boot, seed))
    return Comparison(
        other.folder,
        other.metrics,
        n_shared=len(ours),
        n_reference=len(reference.predictions),
        n_patients=ours.n_patients,
        macro_auc=difference.macro_auc,
        balanced_sensitivity=difference.balanced_accuracy,
        sensitivity=difference.sensitivity,
        delong=delong_test(theirs, ours),
        mcnemar=mcnemar(theirs, ours),
        reported=other.reported,
        margin=margin,
        delong_margin=None if margin is None else delong_margin_test(theirs, ours, margin),
        pairing=pairing,
        n_other_images=other_images(reference, other),
    )
