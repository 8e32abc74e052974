"""From test scans with truth and probabilities to everything in metrics.json."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from med_transfer.metrics import measures
from med_transfer.metrics.abstention import abstention_curve
from med_transfer.metrics.calibration import brier, calibration
from med_transfer.metrics.class_metrics import class_metrics
from med_transfer.metrics.class_rates import sensitivities
from med_transfer.metrics.comparison import paired_difference
from med_transfer.metrics.config import EvaluationConfig, checked_prevalence
from med_transfer.metrics.decision_curve import decision_curves
from med_transfer.metrics.grouping import Grouping
from med_transfer.metrics.intervals import PatientBootstrap
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.metrics import BaselineMetrics, Bootstrap, Failed, Metrics, TransferGain
from med_transfer.metrics.subgroups import subgroup_metrics, subgroup_tests
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.record import Prediction

_NONE: Mapping = MappingProxyType({})


def compute_metrics(
    truth: NDArray[np.bool_],
    probabilities: NDArray[np.floating],
    patients: Sequence[str],
    labels: Labels,
    *,
    operating_point: OperatingPoint | None = None,
    failed: Sequence[Prediction] = (),
    baselines: Mapping[str, NDArray[np.floating]] = _NONE,
    subgroups: Mapping[str, Sequence[str]] | Sequence[Grouping] = (),
    transfer_gain: TransferGain | None = None,
    config: EvaluationConfig | None = None,
    seed: int = 0,
    n_boot: int = 2000,
) -> Metrics:
    """Measure a model on scans it was not trained on.

    Args:
        truth: boolean [scan, class].
        probabilities: [scan, class] in [0, 1].
        patients: one entry a scan; scans of one patient are resampled together.
        labels: class names.
        operating_point: how probabilities become calls; by default the most probable class, or findings at 0.5.
        failed: predictions that are not ``ok``; counted by reason, left out of every rate.
        baselines: name to probabilities [scan, class] on the same scans.
        subgroups: from ``grouping``; or column to one value a scan, for example ``{"scanner": [...]}``.
        transfer_gain: from ``med_transfer.metrics.transfer_gain``.
        config: which interval the rates get, and the prevalence to state predictive values at.
        seed, n_boot: of the patient bootstrap.

    Raises:
        UsageError: when arrays do not belong together (see ``LabelledPredictions``), or a prevalence is of no class.
        NothingDone: when there is no scan.
    """
    scored = LabelledPredictions.of(truth, probabilities, patients, labels, operating_point)
    groupings = [Grouping.of(*one) for one in subgroups.items()] if isinstance(subgroups, Mapping) else subgroups
    bootstrap, config = PatientBootstrap(scored.patients, n_boot, seed), config or EvaluationConfig()
    checked_prevalence(config.prevalence, labels)
    return Metrics(
        labels=list(labels.names),
        multilabel=labels.multilabel,
        n_scans=len(scored),
        n_patients=scored.n_patients,
        classes=class_metrics(scored, bootstrap, config),
        balanced_accuracy=measures.balanced_accuracy(scored, bootstrap),
        macro_auc=measures.macro_auc(scored, bootstrap),
        micro_auc=measures.micro_auc(scored, bootstrap),
        macro_average_precision=measures.macro_average_precision(scored, bootstrap),
        confusion_matrix=measures.confusion_matrix(scored),
        prevalence=dict(zip(labels.names, scored.truth.mean(axis=0).tolist(), strict=True)),
        calibration=calibration(scored, bootstrap),
        decision_curves=decision_curves(scored, bootstrap),
        abstention=abstention_curve(scored, bootstrap, config),
        operating_point=scored.operating_point,
        baselines={name: _baseline(scored, other, bootstrap, config) for name, other in baselines.items()},
        subgroups={one.column: subgroup_metrics(scored, one, bootstrap, config) for one in groupings},
        subgroup_tests=subgroup_tests(scored, groupings, seed),
        transfer_gain=transfer_gain,
        failed=_failed(failed),
        evaluation=config,
        bootstrap=Bootstrap(n_boot=n_boot, seed=seed),
    )


def _baseline(
    scored: LabelledPredictions,
    probabilities: NDArray[np.floating],
    bootstrap: PatientBootstrap,
    config: EvaluationConfig,
) -> BaselineMetrics:
    """A baseline is called at the default operating point: the network's thresholds are not its own."""
    other = LabelledPredictions.of(scored.truth, probabilities, scored.patients, scored.labels)
    gain = paired_difference(scored, other, bootstrap)
    return BaselineMetrics(
        balanced_accuracy=measures.balanced_accuracy(other, bootstrap),
        macro_auc=measures.macro_auc(other, bootstrap),
        brier=brier(other, bootstrap),
        sensitivity=sensitivities(other, bootstrap, config),
        macro_auc_gain=gain.macro_auc,
        balanced_accuracy_gain=gain.balanced_accuracy,
    )


def _failed(predictions: Sequence[Prediction]) -> Failed:
    """Count by reason, most frequent first. The path of the scan, or of a file in it, is taken off: equal ones meet."""
    reasons = [
        re.sub(rf"^{re.escape(p.scan)}(/[^:]*)?: ", "", p.reason) or p.status for p in predictions if p.status != "ok"
    ]
    return Failed(n=len(reasons), reasons=dict(Counter(reasons).most_common()))
