"""What to do next: at most three steps, those that free the figures from their gravest limit first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from med_transfer.metrics.binomial import trials_for_width
from med_transfer.metrics.records.class_metrics import ClassMetrics
from med_transfer.metrics.records.metrics import Metrics
from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.sections.first_screen_notices import FEW_SCANS, STRONGEST_BASELINE

MAX_STEPS = 3


def next_steps(evidence: Evidence, t: Translator) -> list[str]:
    """Sentences; never empty, since every figure waits for other patients."""
    return list(islice(_steps(evidence, t), MAX_STEPS))


def _steps(evidence: Evidence, t: Translator) -> Iterator[str]:
    metrics = evidence.metrics
    if metrics.altered_copies:
        yield t(
            "Check the rows named above. Where both scans belong to one patient, give them the same name in the "
            "column patient, and train again."
        )
    if metrics.failed.n:
        yield _repaired(metrics, t)
    if metrics.transfer_gain is not None and metrics.transfer_gain.verdict == "harm":
        yield t("Choose another backbone: med-transfer select COHORT.csv ranks them on your own scans.")
    if few := _few(metrics, t):
        yield few
    if _baseline_stands(metrics):
        yield t(
            "Find out whether more labels would help: med-transfer labels budget COHORT.csv estimates how many. Until "
            "the network is shown to be better, the handcrafted baseline is the simpler choice."
        )
    yield _others(metrics, t)


def _repaired(metrics: Metrics, t: Translator) -> str:
    if metrics.external:
        return t(
            "Inspect the scans without a prediction (med-transfer inspect COHORT.csv), repair or replace them, and "
            "evaluate again."
        )
    return t(
        "Inspect the scans without a prediction (med-transfer inspect COHORT.csv), repair or replace them, and train "
        "again."
    )


def _few(metrics: Metrics, t: Translator) -> str:
    """Patients that are missing for the interval that was asked for, of the classes with few of them."""
    width = metrics.evaluation.interval_width
    needed = {
        name: n_needed
        for name, class_metrics in metrics.classes.items()
        if class_metrics.n_patients < FEW_SCANS
        if (n_needed := _needed(class_metrics, width)) > class_metrics.n_patients  # fewer may do for a wide interval
    }
    if not needed:
        return ""
    each = t("{needed} patients of each class", needed=max(needed.values()))
    listed = t(", ").join(
        t("{needed} patients with {name} (now {n})", needed=n_needed, name=name, n=metrics.classes[name].n_patients)
        for name, n_needed in needed.items()
    )
    alike = len(set(needed.values())) == 1 and len(needed) == len(metrics.labels)
    return t(
        "Collect more patients: for an interval of sensitivity no wider than {width}, the test set needs about "
        "{classes}.",
        width=f"{100 * width:g} %",
        classes=each if alike else listed,
    )


def _needed(class_metrics: ClassMetrics, width: float) -> int:
    """Patients for an interval of that width at the worst sensitivity that is possible: any, if none was measured."""
    size = class_metrics.sample_size.get("sensitivity")
    return size.n_needed_at_worst if size else trials_for_width(0.5, width)


def _baseline_stands(metrics: Metrics) -> bool:
    baseline = metrics.baselines.get(STRONGEST_BASELINE)
    return baseline is not None and baseline.macro_auc_gain.excludes_zero <= 0


def _others(metrics: Metrics, t: Translator) -> str:
    if metrics.out_of_fold or (metrics.overlap is not None and metrics.overlap.seen_scans):
        return t(
            "Collect patients on whom nothing was chosen, from another hospital or a later period, and run "
            "med-transfer evaluate RUN OTHER.csv -o OUT. Until then, report these figures as development results, not "
            "as test results."
        )
    if metrics.external and not (metrics.test_set_access and metrics.test_set_access.own):
        return t(
            "Report these figures alongside those of the run's own test scans, and describe how the two cohorts differ."
        )
    return t(
        "Evaluate on patients from another hospital or a later period: med-transfer evaluate RUN OTHER.csv -o OUT."
    )
