"""Choice of the operating point: thresholds from calibrated out-of-fold probabilities of the validation scans."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from med_transfer.errors import ConfigError, TooFewPatients
from med_transfer.errors.sentence import Sentence, joined
from med_transfer.finetuning.decisions.config import OperatingPointConfig
from med_transfer.metrics.class_rates import class_rate
from med_transfer.metrics.config import EvaluationConfig
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.reasons import VALIDATION_SCANS
from med_transfer.metrics.records.decisions import ChosenPoint
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.labels import Labels

log = logging.getLogger(__name__)

_OPTIMISTIC = Sentence("on the scans that the threshold was chosen on, so rather too high")


def check_point(config: OperatingPointConfig, truth: NDArray[np.bool_], labels: Labels) -> None:
    """Refuse, before anything is trained, an operating point that is impossible.

    Args:
        config: the rule and its settings.
        truth: boolean [scan, class] of the validation scans.
        labels: class names.

    Raises:
        ConfigError: a name is not a class, or the rule does not suit the labels.
        TooFewPatients: the validation scans have no case, or only cases, of a class whose threshold is to be chosen.
    """
    if config.rule == "cost" and labels.multilabel:
        raise ConfigError(
            "rule cost with several findings a scan",
            where="operating_point.rule",
            expected="rule thresholds",
            action="State for each finding the threshold (cost of a false alarm) / (that + cost of a miss)",
        )
    classes = f"one of {', '.join(labels.names)}"
    if config.for_class is not None and config.for_class not in labels.names:
        raise ConfigError(f"class {config.for_class!r}", where="operating_point.class", expected=classes)
    if config.rule == "sensitivity" and config.for_class is None and not labels.multilabel:
        raise ConfigError("rule sensitivity without class", where="operating_point.class", expected=classes)
    if not config.is_chosen:
        if config.rule != "balanced_argmax":
            _predefined_point(config, labels).require_fit(labels)
        return
    for name in _thresholded_classes(config, labels):
        cases = truth[:, labels.index(name)]
        lacking = "of" if not cases.any() else "of another class than" if cases.all() else ""
        if lacking:
            raise TooFewPatients(
                f"no validation scan {lacking} {name}, so its threshold cannot be chosen",
                where="operating_point",
                expected="both kinds among the validation scans",
                action="Choose another rule, or a split with more validation scans",
            )


def choose_point(
    config: OperatingPointConfig, validation: LabelledPredictions, *, n_networks: int = 1
) -> tuple[OperatingPoint, ChosenPoint]:
    """The operating point, and its sensitivity and specificity on the validation scans.

    Args:
        config: the rule and its settings.
        validation: calibrated out-of-fold probabilities; their own operating point is what ``balanced_argmax`` means
            for them.
        n_networks: fold models of the ensemble.

    Raises:
        ConfigError, TooFewPatients: as :func:`check_point`; also if no threshold above 0 meets the rule.
    """
    point = select_point(config, validation)
    predictions = replace(validation, operating_point=point, scans=VALIDATION_SCANS)
    reached = ChosenPoint(
        rule=config.rule,
        for_class=config.for_class,
        at_least=config.at_least,
        n_scans=len(predictions),
        n_patients=predictions.n_patients,
        n_networks=n_networks,
        sensitivity=_validation_rates(predictions, "sensitivity", config),
        specificity=_validation_rates(predictions, "specificity", config),
        warnings=_warnings(config, predictions),
    )
    for warning in reached.warnings:
        log.warning("operating point: %s", warning)
    return point, reached


def select_point(config: OperatingPointConfig, validation: LabelledPredictions) -> OperatingPoint:
    """The operating point alone; arguments and errors as in :func:`choose_point`."""
    check_point(config, validation.truth, validation.labels)
    if config.rule == "balanced_argmax":
        return validation.operating_point
    return (
        _point_from_validation(config, validation) if config.is_chosen else _predefined_point(config, validation.labels)
    )


def youden_threshold(probabilities: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """The threshold at which sensitivity + specificity - 1 is greatest; the highest one of several.

    Args:
        probabilities, truth: [scan] of one class; there must be scans with and without it.

    Source: Youden 1950, Cancer 3:32.
    """
    false_positive_rate, sensitivity, thresholds = roc_curve(truth, probabilities, drop_intermediate=False)
    cases = truth.sum()
    non_cases = len(truth) - cases
    true_positives, false_positives = np.rint(sensitivity * cases), np.rint(false_positive_rate * non_cases)
    # Youden's index in whole numbers: rounding breaks no tie
    gain = true_positives * non_cases - false_positives * cases
    return float(thresholds[1:][gain[1:].argmax()])  # the first threshold, infinity, calls nothing


def sensitivity_threshold(probabilities: NDArray[np.float64], truth: NDArray[np.bool_], at_least: float) -> float:
    """The highest threshold whose sensitivity is at least ``at_least``.

    Args:
        probabilities, truth: [scan] of one class; at least one scan must have it.
        at_least: sensitivity in (0, 1].
    """
    falling = np.sort(probabilities[truth])[::-1]
    return float(falling[_n_cases_needed(len(falling), at_least) - 1])


def _n_cases_needed(n_cases: int, at_least: float) -> int:
    return max(1, math.ceil(round(at_least * n_cases, 9)))  # rounding error must not add one: 0.07 x 100 exceeds 7


def _point_from_validation(config: OperatingPointConfig, validation: LabelledPredictions) -> OperatingPoint:
    probabilities, truth, labels = validation.probabilities, validation.truth, validation.labels
    thresholds = dict.fromkeys(labels.names, 0.5) if labels.multilabel else {}
    for name in _thresholded_classes(config, labels):
        of_class, cases = probabilities[:, labels.index(name)], truth[:, labels.index(name)]
        if config.at_least is None:
            thresholds[name] = youden_threshold(of_class, cases)
        else:
            thresholds[name] = sensitivity_threshold(of_class, cases, config.at_least)
        if thresholds[name] <= 0:
            raise ConfigError(
                f"no threshold above 0 reaches the aim for {name}: the networks give probability 0 to its scans",
                where="operating_point",
                expected="an aim that the validation scans can reach",
                action="Run the same command with another operating_point; what was trained is kept",
            )
    rule = "threshold" if labels.multilabel else "class_threshold"
    return OperatingPoint(rule=rule, thresholds=thresholds, chosen_on="validation")


def _predefined_point(config: OperatingPointConfig, labels: Labels) -> OperatingPoint:
    """The operating point of a rule that needs no scans."""
    if config.rule == "cost":
        return OperatingPoint(rule="cost", costs=config.costs)
    if config.rule == "thresholds":
        return OperatingPoint(
            rule="threshold" if labels.multilabel else "class_threshold", thresholds=config.thresholds
        )
    return OperatingPoint.default(labels)


def _thresholded_classes(config: OperatingPointConfig, labels: Labels) -> tuple[str, ...]:
    """The classes whose thresholds are chosen."""
    return labels.names if config.for_class is None else (config.for_class,)


def _validation_rates(predictions: LabelledPredictions, name: str, config: OperatingPointConfig) -> dict[str, Estimate]:
    """A rate by class; its method notes if the threshold was chosen on the same scans."""
    labels, stated = predictions.labels.names, EvaluationConfig()
    by_class = {label: class_rate(predictions, c, name, stated) for c, label in enumerate(labels)}
    if not config.is_chosen:
        return by_class
    return {
        label: rate.model_copy(update={"method": joined(rate.method, _OPTIMISTIC)}) for label, rate in by_class.items()
    }


def _warnings(config: OperatingPointConfig, predictions: LabelledPredictions) -> list[str]:
    """Warnings about thresholds chosen for a sensitivity."""
    warnings = []
    for name in _thresholded_classes(config, predictions.labels) if config.at_least is not None else ():
        column = predictions.labels.index(name)
        cases, predicted = predictions.truth[:, column], predictions.predicted[:, column]
        n = int(cases.sum())
        if _n_cases_needed(n, config.at_least or 0) == n:
            warnings.append(
                Sentence(
                    "{share:g} of {n} validation scans of {name} is all of them, so the threshold is the lowest "
                    "probability among them: one scan decides it",
                    share=config.at_least,
                    n=n,
                    name=name,
                )
            )
        if predicted.all():
            warnings.append(
                Sentence("the sensitivity of {name} is reached only by calling every validation scan so", name=name)
            )
    return warnings
