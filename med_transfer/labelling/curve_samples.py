"""What models that learned from ever more patients say of others, and the learning curves that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import UsageError
from med_transfer.metrics.auc import weighted_macro_auc
from med_transfer.metrics.intervals import PatientBootstrap
from med_transfer.metrics.rates import weighted_rates
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.labels import Labels

Measure = Literal["sensitivity", "macro_auc"]
MEASURES: tuple[Measure, ...] = ("sensitivity", "macro_auc")
ALL_CLASSES = "all classes"


@dataclass(frozen=True)
class SubsetPredictions:
    """Every scan predicted by models that never saw its patient, again for each size of training set and each repeat.

    Attributes:
        learned: patients that the models learned from [repeat, size, class], of each class, mean over the folds.
        learned_in_all: the same without regard to class [repeat, size].
        probabilities: [repeat, size, scan, class].
        truth: boolean [scan, class].
        patients: one entry a scan.
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
    """A measured learning curve, and the same in each resample.

    Attributes:
        name: a class, or ``all classes``.
        patients: that were learned from [size], rising, above 0: of the class, or in all.
        values: performance [size] in [0, 1], mean over the repeats; NaN where there is no case.
        draws: the same [draw, size] as other patients, judged and learned from, might have given it.
        labelled: patients with labels in all folds: of the class, or in all.
    """

    name: str
    patients: NDArray[np.float64]
    values: NDArray[np.float64]
    draws: NDArray[np.float64]
    labelled: int


def curve_samples(
    predictions: SubsetPredictions, measure: Measure, n_draws: int = 400, seed: int = 0
) -> list[CurveSamples]:
    """The learning curves: of the sensitivity one a class, of the macro AUC one in all.

    A draw resamples the patients who are judged, the same for all sizes, and adds what learning from other patients
    might have changed (:func:`_learning_deviations`); of a single repeat that is not known and left out.

    Raises:
        UsageError: a measure that is none.
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
        _rising(CurveSamples(name, of_curve, values[:, c], draws[:, :, c], len(set(patients[judged_by[:, c]]))))
        for c, (name, of_curve) in enumerate(sizes.items())
    ]


def sizes_of_curves(
    learned: NDArray[np.float64], learned_in_all: NDArray[np.float64], measure: Measure, labels: Labels
) -> dict[str, NDArray[np.float64]]:
    """Each curve's numbers of patients [size], by its name; :class:`SubsetPredictions` says what is given."""
    if measure == "macro_auc":
        return {ALL_CLASSES: learned_in_all.mean(axis=0)}
    return dict(zip(labels.names, learned.mean(axis=0).T, strict=True))


def distinct_sizes(sizes: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Those that hold equally many patients of a class count once, rising; and for each size which one it is."""
    return np.unique(sizes.round(6), return_inverse=True)


def _learning_deviations(
    by_repeat: NDArray[np.float64], share: NDArray[np.float64], n_draws: int, seed: int
) -> NDArray[np.float64]:
    """By how much the mean over repeats might differ with other patients to learn from [draw, size, class].

    Repeats differ by less than cohorts do, since two subsets of one cohort share patients: of a share s in each, the
    fraction s. With v the variance between R repeats, that of their mean is v (1/R + s / (1 - s)), and v is known with
    R - 1 degrees of freedom. The deviations are combinations of those of the repeats, so that sizes vary together.

    Source: Nadeau & Bengio 2003, Machine Learning 52:239, whose n_test / n_train is s / (1 - s) here: the patients that
    two subsets share over those they do not.

    Args:
        by_repeat: performance [repeat, size, class].
        share: of all patients that a subset holds [size], below 1.
    """
    repeats = len(by_repeat)
    if repeats == 1:
        return np.zeros((n_draws, *by_repeat.shape[1:]))
    rng = np.random.default_rng(seed)
    mixtures = rng.normal(size=(n_draws, repeats)) / np.sqrt(rng.chisquare(repeats - 1, size=(n_draws, 1)))
    deviations = by_repeat - by_repeat.mean(axis=0)
    return np.einsum("dr,rsc->dsc", mixtures, deviations) * np.sqrt(1 / repeats + share / (1 - share))[:, None]


def _rising(samples: CurveSamples) -> CurveSamples:
    """One point for sizes that hold equally many patients of a class, their mean; none for those that hold none."""
    sizes, groups = distinct_sizes(samples.patients)
    weights = np.eye(len(sizes))[groups]
    weights = (weights / weights.sum(axis=0))[:, sizes > 0]
    values, draws = samples.values @ weights, samples.draws @ weights
    return CurveSamples(samples.name, sizes[sizes > 0], values, draws, samples.labelled)


def _by_repeat(predictions: SubsetPredictions, measure: Measure, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """[draw, repeat, size, class], for the macro AUC with one class, for each row of scan weights [draw, scan]."""
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
    """[draw, class]."""
    if measure == "macro_auc":
        return weighted_macro_auc(predictions.truth, probabilities, weights)[:, None]
    predicted = OperatingPoint.default(predictions.labels).predictions(probabilities, predictions.labels)
    return weighted_rates(predictions.truth, predicted, weights)["sensitivity"]


def count_patients(truth: NDArray[np.bool_], patients: Sequence[str]) -> NDArray[np.intp]:
    """Patients of each class [class]; who has scans of two classes counts in both."""
    names = np.array(patients, dtype=object)
    return np.array([len(set(names[column])) for column in truth.T], dtype=np.intp)
