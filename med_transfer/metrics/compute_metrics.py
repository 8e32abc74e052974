"""Compute everything in metrics.json from test scans with truth and probabilities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from med_transfer.metrics.records.decisions import AccessCounts, ChosenPoint
from med_transfer.metrics.records.domain import Domain, Overlap
from med_transfer.metrics.records.fusion import FusionMetrics
from med_transfer.metrics.records.metrics import (
    Abstained,
    BaselineMetrics,
    Bootstrap,
    Failed,
    GeneralisationGap,
    KeptNetwork,
    Metrics,
    Repeats,
    TransferGain,
)
from med_transfer.metrics.records.prediction_sets import SetMetrics
from med_transfer.metrics.records.shortcuts import Shortcuts
from med_transfer.metrics.subgroups import subgroup_metrics, subgroup_tests
from med_transfer.model.calibration import log_prior_ratio, shifted
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.record import Prediction

PREVALENCE_BASELINE = "prevalence"  # its probabilities are the class shares of the development scans

_NONE: Mapping = MappingProxyType({})


@dataclass(frozen=True)
class KnownFigures:
    """Contents of metrics.json that are not computed from the predictions; fields are those of :class:`Metrics`.

    Attributes:
        transfer_gain: gain over the same network trained from scratch.
        kept_network, generalisation_gap: results of the training.
        shortcuts: how well acquisition facts alone predict the class of development scans.
        overlap, domain: how many scans of another cohort the bundle has seen, and how far the cohort has shifted.
        test_set_access: how often a network has read these scans, including this time.
        fusion, prediction_sets, chosen_point: for a bundle that has them.
        out_of_fold: whether the scans are validation scans, each predicted by a network that had not trained on it.
        repeats: results of each repeat of the cross-validation.
        calibrated_on: number of validation patients of each class that the calibration was fitted on.
        abstained: for a bundle that abstains.
        altered_copies: pairs of rows whose scans look like copies across the split.
    """

    transfer_gain: TransferGain | None = None
    kept_network: KeptNetwork | None = None
    generalisation_gap: GeneralisationGap | None = None
    shortcuts: Shortcuts | None = None
    overlap: Overlap | None = None
    domain: Domain | None = None
    test_set_access: AccessCounts | None = None
    fusion: FusionMetrics | None = None
    prediction_sets: SetMetrics | None = None
    chosen_point: ChosenPoint | None = None
    out_of_fold: bool = False
    repeats: Repeats | None = None
    calibrated_on: Mapping[str, int] = field(default_factory=dict)
    abstained: Abstained | None = None
    altered_copies: Sequence[tuple[int, int]] = ()


def compute_metrics(
    predictions: LabelledPredictions,
    known: KnownFigures = KnownFigures(),
    *,
    baselines: Mapping[str, NDArray[np.floating]] = _NONE,
    subgroups: Mapping[str, Sequence[str]] | Sequence[Grouping] = (),
    failed: Sequence[Prediction] = (),
    config: EvaluationConfig = EvaluationConfig(),  # noqa: B008 (frozen)
    resampling: Bootstrap = Bootstrap(),  # noqa: B008 (frozen)
) -> Metrics:
    """Measure a model on scans it was not trained on.

    Args:
        predictions: the scans' truth and probabilities, with the operating point.
        known: further contents of metrics.json.
        baselines: probabilities [scan, class] on the same scans by name, of models fitted with balanced classes; except
            ``prevalence``, which holds the class shares.
        subgroups: groupings from ``grouping``, or one value per scan by column, for example ``{"scanner": [...]}``.
        failed: predictions that are not ``ok``; counted by reason, left out of every rate.
        config: interval method of the rates, and prevalences at which to state predictive values.
        resampling: draws and seed of the patient bootstrap.

    Raises:
        UsageError: a prevalence is of an unknown class, or a subgroup column does not have one value per scan.
    """
    labels, predictions = predictions.labels, replace(predictions, out_of_fold=known.out_of_fold)
    groupings = [Grouping.of(*item) for item in subgroups.items()] if isinstance(subgroups, Mapping) else subgroups
    bootstrap = PatientBootstrap(predictions.patients, resampling.n_boot, resampling.seed)
    checked_prevalence(config.prevalence, labels)
    within = known.domain is not None  # an external cohort, within which the baselines are cross-validated
    return Metrics(
        labels=list(labels.names),
        multilabel=labels.multilabel,
        n_scans=len(predictions),
        n_patients=predictions.n_patients,
        classes=class_metrics(predictions, bootstrap, config),
        balanced_accuracy=measures.balanced_accuracy(predictions),
        macro_auc=measures.macro_auc(predictions),
        micro_auc=measures.micro_auc(predictions, bootstrap),
        macro_average_precision=measures.macro_average_precision(predictions, bootstrap),
        confusion_matrix=measures.confusion_matrix(predictions),
        prevalence=dict(zip(labels.names, predictions.truth.mean(axis=0).tolist(), strict=True)),
        calibration=calibration(predictions, bootstrap),
        decision_curves=decision_curves(predictions, bootstrap),
        abstention=abstention_curve(predictions, config),
        operating_point=predictions.operating_point,
        baselines={
            name: _baseline(_called(predictions, name, baselines, within=within), predictions, bootstrap, config)
            for name in baselines
        },
        subgroups={grouping.column: subgroup_metrics(predictions, grouping, config) for grouping in groupings},
        subgroup_tests=subgroup_tests(predictions, groupings, resampling.seed),
        failed=_failed(failed),
        evaluation=config,
        bootstrap=resampling,
        **vars(known),
    )


def _called(
    predictions: LabelledPredictions, name: str, baselines: Mapping[str, NDArray[np.floating]], *, within: bool
) -> LabelledPredictions:
    """A baseline's predictions at an operating point of its own, since the network's thresholds do not apply to it.

    Baselines are fitted with balanced classes. If the prevalence of the development scans is known, their probabilities
    are shifted to it, like the network's, and the operating point is balanced. ``within`` means that they were
    cross-validated within this cohort.
    """
    probabilities, labels = baselines[name], predictions.labels
    shares = baselines.get(PREVALENCE_BASELINE)
    scored = LabelledPredictions.of(predictions.truth, probabilities, predictions.patients, labels)
    scored = replace(scored, out_of_fold=predictions.out_of_fold or (within and name != PREVALENCE_BASELINE))
    if shares is None or name == PREVALENCE_BASELINE:
        return scored
    there = shifted(
        probabilities, log_prior_ratio(shares[0], multilabel=labels.multilabel), multilabel=labels.multilabel
    )
    point = OperatingPoint.balanced(labels, np.clip(shares[0], 1e-6, 1).tolist())
    return replace(scored, probabilities=there, operating_point=point)


def _baseline(
    other: LabelledPredictions, predictions: LabelledPredictions, bootstrap: PatientBootstrap, config: EvaluationConfig
) -> BaselineMetrics:
    """Performance of a baseline, and the network's gain over it."""
    gain = paired_difference(predictions, other, bootstrap)
    return BaselineMetrics(
        balanced_accuracy=measures.balanced_accuracy(other),
        macro_auc=measures.macro_auc(other),
        brier=brier(other, bootstrap),
        sensitivity=sensitivities(other, config),
        macro_auc_gain=gain.macro_auc,
        balanced_accuracy_gain=gain.balanced_accuracy,
    )


def _failed(predictions: Sequence[Prediction]) -> Failed:
    """Count by problem, most frequent first; problems do not name the file, so equal ones are counted together."""
    problems = [one.problem or one.reason or one.status for one in predictions if one.status != "ok"]
    return Failed(n=len(problems), reasons=dict(Counter(problems).most_common()))
