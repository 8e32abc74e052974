"""Predictions of models trained on increasing numbers of patients, and learning curves from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import UsageError
from med_transfer.metrics.auc import weighted_macro_auc
from med_transfer.metrics.binomial import wilson
from med_transfer.metrics.intervals import PatientBootstrap, percentile_interval
from med_transfer.metrics.rates import weighted_rates
from med_transfer.metrics.records.estimate import Interval
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.labels import Labels

Measure = Literal["sensitivity", "macro_auc"]
MEASURES: tuple[Measure, ...] = ("sensitivity", "macro_auc")
ALL_CLASSES = "all classes"
_NO_WIDTH = 1e-6


@dataclass(frozen=True)
class SubsetPredictions:
    """Cross-validated predictions of every scan, for each repeat and each size of the training set.

    Attributes:
        learned: number of training patients of each class, mean over folds, [repeat, size, class].
        learned_in_all: number of training patients regardless of class, mean over folds, [repeat, size].
        probabilities: [repeat, size, scan, class], by models that never saw the scan's patient.
        truth: boolean [scan, class].
        patients: one entry per scan.
        labels: class names.
    """

    learned: NDArray[np.float64]
    learned_in_all: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    truth: NDArray[np.bool_]
    patients: tuple[str, ...]
    labels: Labels


@dataclass(frozen=True)
class CurveSamples:
    """A measured learning curve and its resamples.

    Attributes:
        name: a class, or ``all classes``.
        patients: number of training patients [size], increasing, above 0: of the class, or in all.
        values: performance [size] in [0, 1], mean over repeats; NaN if there is no case.
        draws: resampled performance [draw, size], with other patients to evaluate on and to learn from.
        labelled: number of labelled patients in all folds: of the class, or in all.
    """

    name: str
    patients: NDArray[np.float64]
    values: NDArray[np.float64]
    draws: NDArray[np.float64]
    labelled: int

    def interval(self, value: float, draws: NDArray[np.float64]) -> Interval | None:
        """Return the 95 % interval of a performance, from its resamples [draw]: percentiles.

        Where they agree, as for three patients who are all called right, it is Wilson's over the labelled patients.
        None if over half of the resamples are undefined.
        """
        limits = percentile_interval(draws)
        agree = limits is not None and limits[1] - limits[0] < _NO_WIDTH
        return wilson(value * self.labelled, self.labelled) if agree else limits

    @property
    def intervals(self) -> list[Interval | None]:
        """The 95 % interval of each size."""
        return [self.interval(value, draws) for value, draws in zip(self.values.tolist(), self.draws.T, strict=True)]


def curve_samples(
    predictions: SubsetPredictions, measure: Measure, n_draws: int = 400, seed: int = 0
) -> list[CurveSamples]:
    """The learning curves: one per class for the sensitivity, a single one for the macro AUC.

    A draw resamples the evaluated patients, the same ones for all sizes, and adds a deviation for learning from other
    patients (:func:`_learning_deviations`), which is unknown and left out with a single repeat.

    Raises:
        UsageError: the measure is unknown.
    """
    if measure not in MEASURES:
        raise UsageError(f"measure {measure!r}", expected=f"one of {', '.join(MEASURES)}")
    by_repeat = _by_repeat(predictions, measure, np.ones((1, len(predictions.truth))))[0]
    bootstrap, values = PatientBootstrap(predictions.patients, n_draws, seed), by_repeat.mean(axis=0)
    judged = bootstrap.distribution(lambda weights: _by_repeat(predictions, measure, weights)).mean(axis=1)
    share = predictions.learned_in_all.mean(axis=0) / len(set(predictions.patients))
    draws = np.clip(judged + _learning_deviations(by_repeat, share, n_draws, seed), 0, 1)
    patients = np.array(predictions.patients, dtype=object)
    sizes = sizes_of_curves(predictions.learned, predictions.learned_in_all, measure, predictions.labels)
    judged_by = predictions.truth if measure == "sensitivity" else np.ones((len(patients), 1), dtype=bool)
    return [
        _increasing(CurveSamples(name, of_curve, values[:, c], draws[:, :, c], len(set(patients[judged_by[:, c]]))))
        for c, (name, of_curve) in enumerate(sizes.items())
    ]


def sizes_of_curves(
    learned: NDArray[np.float64], learned_in_all: NDArray[np.float64], measure: Measure, labels: Labels
) -> dict[str, NDArray[np.float64]]:
    """Each curve's numbers of training patients [size], by its name; arguments as in :class:`SubsetPredictions`."""
    if measure == "macro_auc":
        return {ALL_CLASSES: learned_in_all.mean(axis=0)}
    return dict(zip(labels.names, learned.mean(axis=0).T, strict=True))


def distinct_sizes(sizes: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """The distinct sizes, increasing, and for each given size its position among them."""
    return np.unique(sizes.round(6), return_inverse=True)


def _learning_deviations(
    by_repeat: NDArray[np.float64], share: NDArray[np.float64], n_draws: int, seed: int
) -> NDArray[np.float64]:
    """Random deviations of the mean over repeats if other patients were learned from, [draw, size, class].

    Repeats differ less than cohorts do, since two subsets of one cohort overlap: if each holds a share s of the
    patients, they have the fraction s in common. With v the variance between R repeats, the variance of their mean is
    v (1/R + s / (1 - s)), and v is known with R - 1 degrees of freedom. The deviations are linear combinations of those
    of the repeats, so that sizes vary together.

    Source: Nadeau & Bengio 2003, Machine Learning 52:239; their n_test / n_train is s / (1 - s) here, the shared
    patients of two subsets over the others.

    Args:
        by_repeat: performance [repeat, size, class].
        share: share of all patients in a subset [size], below 1.
    """
    repeats = len(by_repeat)
    if repeats == 1:
        return np.zeros((n_draws, *by_repeat.shape[1:]))
    rng = np.random.default_rng(seed)
    mixtures = rng.normal(size=(n_draws, repeats)) / np.sqrt(rng.chisquare(repeats - 1, size=(n_draws, 1)))
    deviations = by_repeat - by_repeat.mean(axis=0)
    return np.einsum("dr,rsc->dsc", mixtures, deviations) * np.sqrt(1 / repeats + share / (1 - share))[:, None]


def _increasing(samples: CurveSamples) -> CurveSamples:
    """The curve with sizes of equally many patients merged into their mean, and sizes without patients removed."""
    sizes, groups = distinct_sizes(samples.patients)
    weights = np.eye(len(sizes))[groups]
    weights = (weights / weights.sum(axis=0))[:, sizes > 0]
    values, draws = samples.values @ weights, samples.draws @ weights
    return CurveSamples(samples.name, sizes[sizes > 0], values, draws, samples.labelled)


def _by_repeat(predictions: SubsetPredictions, measure: Measure, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Performance [draw, repeat, size, class] for scan weights [draw, scan]; the macro AUC has a single class."""
    return np.stack(
        [
            np.stack([_measured(predictions, of_size, measure, weights) for of_size in of_repeat], axis=1)
            for of_repeat in predictions.probabilities
        ],
        axis=1,
    )


def _measured(
    predictions: SubsetPredictions, probabilities: NDArray[np.float64], measure: Measure, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Performance [draw, class] of probabilities [scan, class]."""
    if measure == "macro_auc":
        return weighted_macro_auc(predictions.truth, probabilities, weights)[:, None]
    predicted = OperatingPoint.default(predictions.labels).predictions(probabilities, predictions.labels)
    return weighted_rates(predictions.truth, predicted, weights)["sensitivity"]


def count_patients(truth: NDArray[np.bool_], patients: Sequence[str]) -> NDArray[np.intp]:
    """Number of patients of each class [class]; a patient with scans of two classes counts in both."""
    names = np.array(patients, dtype=object)
    return np.array([len(set(names[column])) for column in truth.T], dtype=np.intp)
