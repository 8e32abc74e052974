"""Shortcut detection: how well acquisition facts such as scanner, kernel or spacing alone predict the label.

Where they do, a network can score well without looking at the disease (Zech et al. 2018, PLoS Med 15:e1002683; DeGrave
et al. 2021, Nat Mach Intell 3:610). The model is a penalised logistic regression on categories: numbers are cut at the
development scans' quintiles, and a missing value is a category of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from med_transfer.errors.sentence import Sentence
from med_transfer.metrics import measures
from med_transfer.metrics.cross_validation import held_out_folds
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.metrics.records.shortcuts import Shortcuts
from med_transfer.model.linear_head import fit_predict
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.patient_folds import Fold

Facts = Mapping[str, str | float]

_QUINTILES = (0.2, 0.4, 0.6, 0.8)
_RARE = 5  # scans; categories with fewer are pooled
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Development:
    """Scans that the model may learn from.

    Attributes:
        facts: acquisition facts of each scan, text or number by name; unknown facts are absent.
        truth: boolean [scan, class].
        patients: patient of each scan.
        labels: names of the classes.
    """

    facts: Sequence[Facts]
    truth: NDArray[np.bool_]
    patients: Sequence[str]
    labels: Labels


def fit_acquisition(
    development: Development, facts: Sequence[Facts], seed: int = 0
) -> tuple[NDArray[np.float64] | None, Shortcuts]:
    """Predict test scans from their acquisition facts alone.

    Args:
        development: scans to learn from.
        facts: acquisition facts of the test scans.
        seed: random seed of the cross-validation folds.

    Returns:
        Probabilities [test scan, class], or None if no fact varies between development scans; and the strength of the
        facts, cross-validated on the development scans.
    """
    shortcuts, _ = _measured(development, seed)
    if not shortcuts.facts:
        return None, shortcuts
    everyone = np.arange(len(development.facts))
    return _predict(development, everyone, facts, sorted(shortcuts.facts)), shortcuts


def cross_validate_acquisition(scans: Development, seed: int = 0) -> tuple[NDArray[np.float64] | None, Shortcuts]:
    """Cross-validated :func:`fit_acquisition`: each scan is predicted by a model of other patients.

    Args:
        scans: the scans that are both learned from and predicted.
        seed: random seed of the folds.

    Returns:
        Probabilities [scan, class], or None if no fact varies or a class has fewer than two patients; and the strength
        of the facts.
    """
    shortcuts, probabilities = _measured(scans, seed)
    return probabilities, shortcuts


def _measured(development: Development, seed: int) -> tuple[Shortcuts, NDArray[np.float64] | None]:
    """Strength of the facts, singly and together, and cross-validated probabilities from all of them."""
    names = sorted({name for scan in development.facts for name in scan})
    varying = [name for name in names if len({scan.get(name) for scan in development.facts}) > 1]
    folds = held_out_folds(development.truth, development.patients, development.labels, seed)
    strengths = {
        pattern: _strength(development, _held_out(development, [name], folds))
        for pattern, name in {_pattern(development.facts, name): name for name in varying}.items()
    }
    alone = {name: strengths[_pattern(development.facts, name)] for name in varying}
    together = _held_out(development, varying, folds)
    shortcuts = Shortcuts(
        n_scans=len(development.facts),
        n_patients=len(set(development.patients)),
        macro_auc=_strength(development, together)
        if varying
        else Estimate.undefined(Sentence("no fact differs between the scans")),
        facts=dict(sorted(alone.items(), key=lambda item: -(item[1].value or 0.0))),
        constant=[name for name in names if name not in varying],
        method=(
            "logistic regression on categories, numbers cut at quintiles of the scans learned from; "
            f"cross-validated by patient (seed {seed})"
        ),
    )
    return shortcuts, together


def _pattern(scans: Sequence[Facts], name: str) -> tuple[str | float, ...]:
    """Key that is equal for facts that partition the scans alike, as manufacturer and model often do: one fit suffices.

    For text facts only the partition matters; for numbers also the values, since they are cut at quintiles.
    """
    if not any(isinstance(scan.get(name), str) for scan in scans):
        return tuple(scan.get(name, _UNKNOWN) for scan in scans)
    values = [scan.get(name, _UNKNOWN) for scan in scans]
    order = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return "text", *(_UNKNOWN if value == _UNKNOWN else order[value] for value in values)


def _held_out(development: Development, names: Sequence[str], folds: Sequence[Fold]) -> NDArray[np.float64] | None:
    """Cross-validated probabilities [scan, class] from the named facts; None without folds or names."""
    if not folds or not names:
        return None
    probabilities = np.zeros(development.truth.shape)
    for train, held_out in folds:
        test_facts = [development.facts[scan] for scan in held_out]
        probabilities[held_out] = _predict(development, train, test_facts, names)
    return probabilities


def _strength(development: Development, probabilities: NDArray[np.float64] | None) -> Estimate:
    if probabilities is None:
        return Estimate.undefined(Sentence("a class has fewer than two patients"))
    predictions = LabelledPredictions.of(development.truth, probabilities, development.patients, development.labels)
    return measures.macro_auc(replace(predictions, out_of_fold=True))


def _predict(
    development: Development, rows: NDArray[np.intp], test_facts: Sequence[Facts], names: Sequence[str]
) -> NDArray[np.float64]:
    train_facts = [development.facts[row] for row in rows]
    limits = {name: _limits(train_facts, name) for name in names}
    train, test = _categories(train_facts, limits), _categories(test_facts, limits)
    train, test = _one_hot(train, test, rare=min(_RARE, max(1, len(train) // 10)))
    model = LogisticRegression(class_weight="balanced", max_iter=2000)
    return fit_predict(model, train, development.truth[rows], test, multilabel=development.labels.multilabel)


def _one_hot(train: NDArray[np.str_], test: NDArray[np.str_], rare: int) -> tuple[csr_matrix, csr_matrix]:
    """One-hot encoding of each fact; categories of fewer training scans than ``rare`` share a column with unseen ones.

    Equivalent to scikit-learn's OneHotEncoder, whose checks take longer than these small fits. The result is sparse
    because equal rows then give bitwise equal products, so that equal scans tie; dense products do not guarantee it.
    """
    columns = [_one_hot_of_fact(*of_fact, rare) for of_fact in zip(train.T, test.T, strict=True)]
    of_train, of_test = (np.concatenate(parts, axis=1, dtype=np.float64) for parts in zip(*columns, strict=True))
    return csr_matrix(of_train), csr_matrix(of_test)


def _one_hot_of_fact(
    train: NDArray[np.str_], test: NDArray[np.str_], rare: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    categories, counts = np.unique(train, return_counts=True)
    parts = [scans[:, None] == categories[counts >= rare] for scans in (train, test)]
    if counts.min() < rare:
        parts = [np.column_stack([part, ~part.any(axis=1)]) for part in parts]
    return parts[0], parts[1]


def _limits(facts: Sequence[Facts], name: str) -> NDArray[np.float64] | None:
    """Quintiles of a numeric fact; None for text."""
    values = [scan[name] for scan in facts if name in scan]
    if not values or any(isinstance(value, str) for value in values):
        return None
    return np.unique(np.quantile(np.array(values, dtype=np.float64), _QUINTILES))


def _categories(scans: Sequence[Facts], limits: Mapping[str, NDArray[np.float64] | None]) -> NDArray[np.str_]:
    """Category of every fact, as text [scan, fact]."""

    def category(scan: Facts, name: str) -> str:
        value, cuts = scan.get(name), limits[name]
        if value is None:
            return _UNKNOWN
        return str(value) if cuts is None else f"band {np.searchsorted(cuts, value, side='left')}"

    return np.array([[category(scan, name) for name in limits] for scan in scans], dtype=str)
