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
class Judgements:
    """Every scan judged by models that never saw its patient, again for each size of training set and each repeat.

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
        patients: that were learned from [size], rising: of the class, or in all.
        values: performance [size] in [0, 1], mean over the repeats; NaN where there is no case.
        draws: the same [draw, size] with patients and repeats resampled.
        labelled: patients with labels in all folds: of the class, or in all.
    """

    name: str
    patients: NDArray[np.float64]
    values: NDArray[np.float64]
    draws: NDArray[np.float64]
    labelled: int


def curve_samples(judged: Judgements, measure: Measure, n_draws: int = 400, seed: int = 0) -> list[CurveSamples]:
    """The learning curves: of the sensitivity one a class, of the macro AUC one in all.

    A draw resamples the patients who are judged, the same for all sizes, and the repeats: it varies with who happened
    to be judged and with who happened to be learned from.

    Raises:
        UsageError: a measure that is none.
    """
    if measure not in MEASURES:
        raise UsageError(f"measure {measure!r}", expected=f"one of {', '.join(MEASURES)}")
    values = _by_repeat(judged, measure, np.ones((1, len(judged.truth)))).mean(axis=1)[0]
    bootstrap, rng = PatientBootstrap(judged.patients, n_draws, seed), np.random.default_rng(seed)
    resampled = bootstrap.distribution(lambda weights: _by_repeat(judged, measure, weights))
    repeats = rng.integers(resampled.shape[1], size=(n_draws, resampled.shape[1]))
    draws = np.take_along_axis(resampled, repeats[:, :, None, None], axis=1).mean(axis=1)
    patients = np.array(judged.patients, dtype=object)
    if measure == "macro_auc":
        sizes, everyone = judged.learned_in_all.mean(axis=0), len(set(judged.patients))
        return [_rising(CurveSamples(ALL_CLASSES, sizes, values[:, 0], draws[:, :, 0], everyone))]
    sizes = judged.learned.mean(axis=0)
    return [
        _rising(CurveSamples(name, sizes[:, c], values[:, c], draws[:, :, c], len(set(patients[judged.truth[:, c]]))))
        for c, name in enumerate(judged.labels.names)
    ]


def _rising(samples: CurveSamples) -> CurveSamples:
    """One point for sizes that hold equally many patients of a class, their mean."""
    sizes, groups = np.unique(samples.patients.round(6), return_inverse=True)
    weights = np.eye(len(sizes))[groups]
    weights /= weights.sum(axis=0)
    return CurveSamples(samples.name, sizes, samples.values @ weights, samples.draws @ weights, samples.labelled)


def _by_repeat(judged: Judgements, measure: Measure, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """[draw, repeat, size, class], for the macro AUC with one class, for each row of scan weights [draw, scan]."""
    return np.stack(
        [
            np.stack([_measured(judged, one, measure, weights) for one in of_size], axis=1)
            for of_size in judged.probabilities
        ],
        axis=1,
    )


def _measured(
    judged: Judgements, probabilities: NDArray[np.float64], measure: Measure, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[draw, class]."""
    if measure == "macro_auc":
        return weighted_macro_auc(judged.truth, probabilities, weights)[:, None]
    calls = OperatingPoint.default(judged.labels).calls(probabilities, judged.labels)
    return weighted_rates(judged.truth, calls, weights)["sensitivity"]


def count_patients(truth: NDArray[np.bool_], patients: Sequence[str]) -> NDArray[np.intp]:
    """Patients of each class [class]; who has scans of two classes counts in both."""
    names = np.array(patients, dtype=object)
    return np.array([len(set(names[column])) for column in truth.T], dtype=np.intp)
