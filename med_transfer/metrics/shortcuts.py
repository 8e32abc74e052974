"""Against shortcuts: how well the scanner, the kernel or the spacing alone predict the label.

Where they do, a network can score well without looking at the disease (Zech et al. 2018, PLoS Med 15:e1002683; DeGrave
et al. 2021, Nat Mach Intell 3:610). Every fact becomes a category: numbers are cut at the development scans' quintiles,
an unknown value is a category of its own. A logistic regression with a penalty reads them.
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
_RARE = 5  # scans; a category of fewer is pooled with the others that are rare
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Development:
    """Scans that the model may learn from.

    Attributes:
        facts: of every scan: name to text or number; a fact that is not known is absent.
        truth: boolean [scan, class].
        patients: one entry a scan.
        labels: names of the classes.
    """

    facts: Sequence[Facts]
    truth: NDArray[np.bool_]
    patients: Sequence[str]
    labels: Labels


def fit_acquisition(
    development: Development, facts: Sequence[Facts], seed: int = 0
) -> tuple[NDArray[np.float64] | None, Shortcuts]:
    """Probabilities [scan, class] of test scans from their facts alone, and how strong the facts are in development.

    Args:
        development: what is learned from.
        facts: of the test scans.
        seed: of the folds.

    Returns:
        None in place of the probabilities when no fact differs between development scans.
    """
    shortcuts, _ = _measured(development, seed)
    if not shortcuts.facts:
        return None, shortcuts
    everyone = np.arange(len(development.facts))
    return _predict(development, everyone, facts, sorted(shortcuts.facts)), shortcuts


def acquisition_within(scans: Development, seed: int = 0) -> tuple[NDArray[np.float64] | None, Shortcuts]:
    """As :func:`fit_acquisition`, for scans of which no others are at hand: each is predicted from other patients'.

    Args:
        scans: which learn from each other.
        seed: of the folds.
    """
    shortcuts, probabilities = _measured(scans, seed)
    return probabilities, shortcuts


def _measured(development: Development, seed: int) -> tuple[Shortcuts, NDArray[np.float64] | None]:
    """How strong the facts are, each and together; and what all say of each scan by models of other patients."""
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
        else _undefined(Sentence("no fact differs between the scans")),
        facts=dict(sorted(alone.items(), key=lambda item: -(item[1].value or 0.0))),
        constant=[name for name in names if name not in varying],
        method=(
            "logistic regression on categories, numbers cut at quintiles of the scans learned from; "
            f"cross-validated by patient (seed {seed})"
        ),
    )
    return shortcuts, together


def _pattern(scans: Sequence[Facts], name: str) -> tuple[str | float, ...]:
    """Equal for facts that divide the scans alike, as a scanner's maker, model and kernel often do: one fit does.

    The words of a text do not count; numbers do, since they are cut at quintiles.
    """
    if not any(isinstance(scan.get(name), str) for scan in scans):
        return tuple(scan.get(name, _UNKNOWN) for scan in scans)
    values = [scan.get(name, _UNKNOWN) for scan in scans]
    order = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return "text", *(_UNKNOWN if value == _UNKNOWN else order[value] for value in values)


def _held_out(development: Development, names: Sequence[str], folds: Sequence[Fold]) -> NDArray[np.float64] | None:
    """Probabilities [scan, class] from the facts named, by models that did not see the patient; None without folds."""
    if not folds or not names:
        return None
    probabilities = np.zeros(development.truth.shape)
    for train, held_out in folds:
        test_facts = [development.facts[scan] for scan in held_out]
        probabilities[held_out] = _predict(development, train, test_facts, names)
    return probabilities


def _strength(development: Development, probabilities: NDArray[np.float64] | None) -> Estimate:
    if probabilities is None:
        return _undefined(Sentence("a class has fewer than two patients"))
    predictions = LabelledPredictions.of(development.truth, probabilities, development.patients, development.labels)
    return measures.macro_auc(replace(predictions, out_of_fold=True))


def _undefined(reason: str) -> Estimate:
    return Estimate(value=None, ci95=None, method="", reason=reason)


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
    """A column a category of each fact; those of fewer training scans than ``rare`` share one, as do unseen ones.

    As scikit-learn's OneHotEncoder, whose checks take longer than such fits. Rows that are equal stay so to the last
    bit in a sparse product, and not in a dense one: equal scans tie.
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
    """Quintiles of a fact that is a number; None of one that is text."""
    values = [scan[name] for scan in facts if name in scan]
    if not values or any(isinstance(value, str) for value in values):
        return None
    return np.unique(np.quantile(np.array(values, dtype=np.float64), _QUINTILES))


def _categories(scans: Sequence[Facts], limits: Mapping[str, NDArray[np.float64] | None]) -> NDArray[np.str_]:
    """The category of every fact: text [scan, fact]."""

    def category(scan: Facts, name: str) -> str:
        value, cuts = scan.get(name), limits[name]
        if value is None:
            return _UNKNOWN
        return str(value) if cuts is None else f"band {np.searchsorted(cuts, value, side='left')}"

    return np.array([[category(scan, name) for name in limits] for scan in scans], dtype=str)
