"""The fast way to a learning curve: linear probes on frozen features, fitted on nested subsets of the patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from med_transfer.labelling.curve_samples import SubsetPredictions, count_patients
from med_transfer.labelling.nested_subsets import geometric_sizes, nested_order, patient_strata
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.patient_folds import patient_folds
from med_transfer.selection.measures.inputs import finite_table
from med_transfer.selection.probes import predict_by_probe

Predict = Callable[["TrainingSubset"], NDArray[np.float64]]


@dataclass(frozen=True)
class TrainingSubset:
    """Training and test scans of one fold of one repeat at one size.

    Attributes:
        repeat, size, fold: numbers from 0.
        n_patients: number of training patients.
        train, test: boolean [scan]; no patient is in both.
    """

    repeat: int
    size: int
    fold: int
    n_patients: int
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]


@dataclass(frozen=True)
class CurvePlan:
    """The plan of training subsets.

    Attributes:
        smallest: patients in the smallest subset, of all classes together.
        n_sizes: number of sizes; the largest is all patients outside the test fold.
        repeats: number of repeats, each with other folds and another order of the patients.
        n_folds: test folds of each repeat.
        seed: of folds and orders.
    """

    smallest: int
    n_sizes: int = 6
    repeats: int = 10
    n_folds: int = 5
    seed: int = 0


def training_subsets(truth: NDArray[np.bool_], patients: Sequence[str], plan: CurvePlan) -> list[TrainingSubset]:
    """All subsets to train on; within a fold of a repeat they are nested.

    Args:
        truth: boolean [scan, class].
        patients: one entry per scan.
        plan: sizes, repeats and folds.

    Raises:
        UsageError: fewer patients than folds.
        TooFewPatients: fewer patients outside a fold than in the smallest subset.
    """
    names, strata = np.asarray(patients, dtype=str), patient_strata(truth, patients)
    folds = [patient_folds(truth, patients, plan.n_folds, plan.seed + repeat) for repeat in range(plan.repeats)]
    pools = {
        (repeat, fold): sorted(set(names[of_repeat != fold].tolist()))
        for repeat, of_repeat in enumerate(folds)
        for fold in range(plan.n_folds)
    }
    sizes = geometric_sizes(plan.smallest, min(map(len, pools.values())), plan.n_sizes)
    subsets = []
    for (repeat, fold), pool in pools.items():
        rng = np.random.default_rng((plan.seed, repeat, fold))
        order = nested_order({patient: strata[patient] for patient in pool}, rng)
        for size, n_patients in enumerate(sizes):
            train, test = np.isin(names, order[:n_patients]), folds[repeat] == fold
            subsets.append(TrainingSubset(repeat, size, fold, n_patients, train, test))
    return subsets


def probe_curve(
    features: ArrayLike, truth: NDArray[np.bool_], patients: Sequence[str], labels: Labels, plan: CurvePlan
) -> SubsetPredictions:
    """Predictions of all scans by the probe of :func:`~med_transfer.selection.probes.linear_probe`, at every size.

    Args:
        features: [scan, feature], from a network that was trained on none of the scans.
        truth: boolean [scan, class].
        patients: one entry per scan.
        labels: class names.
        plan: sizes, repeats and folds.

    Raises:
        UsageError: features that are not a finite table, or fewer patients than folds.
        TooFewPatients: fewer patients outside a fold than in the smallest subset.
    """
    table = finite_table(features)

    def predict(subset: TrainingSubset) -> NDArray[np.float64]:
        return predict_by_probe(table, truth, subset.train, subset.test, labels)

    return evaluate_subsets(predict, truth, patients, labels, plan)


def evaluate_subsets(
    predict: Predict, truth: NDArray[np.bool_], patients: Sequence[str], labels: Labels, plan: CurvePlan
) -> SubsetPredictions:
    """Predictions of all scans at every size, by the models of all subsets.

    Args:
        predict: trains on a subset, and returns probabilities [test scan, class].
        truth: boolean [scan, class].
        patients: one entry per scan.
        labels: class names.
        plan: sizes, repeats and folds.

    Raises:
        As :func:`training_subsets`, and whatever ``predict`` raises.
    """
    subsets = training_subsets(truth, patients, plan)
    learned, in_all = patients_learned(subsets, truth, patients, plan)
    probabilities = np.zeros((*in_all.shape, *truth.shape))
    for subset in subsets:
        probabilities[subset.repeat, subset.size, subset.test] = predict(subset)
    return SubsetPredictions(learned, in_all, probabilities, truth, tuple(patients), labels)


def patients_learned(
    subsets: Sequence[TrainingSubset], truth: NDArray[np.bool_], patients: Sequence[str], plan: CurvePlan
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``learned`` and ``learned_in_all`` of :class:`SubsetPredictions`, which follow from the subsets alone."""
    shape = (plan.repeats, 1 + max(subset.size for subset in subsets))
    learned, in_all = np.zeros((*shape, truth.shape[1])), np.zeros(shape)
    names = np.array(patients, dtype=str)
    for subset in subsets:
        cell = (subset.repeat, subset.size)
        learned[cell] += count_patients(truth[subset.train], names[subset.train].tolist()) / plan.n_folds
        in_all[cell] += subset.n_patients / plan.n_folds
    return learned, in_all
