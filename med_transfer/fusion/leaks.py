"""Detect columns that may reveal the label or identify the patient, which would make a model useless."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors.sentence import Sentence
from med_transfer.fusion.clinical import is_missing, without_missing
from med_transfer.metrics.auc import auc

_MAX_CODES = 10  # a column with at most this many distinct values may encode the class
_SURE = 0.98
_FEWEST_SCANS = 10


def leaking_columns(texts: Mapping[str, Sequence[str]], truth: NDArray[np.bool_], patients: Sequence[str]) -> list[str]:
    """Return a sentence for each suspicious column, which names the column but no value.

    Args:
        texts: value of each scan, by column.
        truth: boolean [scan, class].
        patients: patient of each scan.
    """
    warnings = []
    for name, values in ((name, without_missing(of_column)) for name, of_column in texts.items()):
        if _tells_class(values, truth):
            warnings.append(
                Sentence(
                    "column {name} gives away the class of almost every development scan: make sure that it is known "
                    "before the diagnosis and not derived from it",
                    name=name,
                )
            )
        if _tells_patient(values, patients):
            warnings.append(
                Sentence(
                    "column {name} identifies the patient: a new patient has no such value; leave it out of "
                    "fusion.columns",
                    name=name,
                )
            )
    return warnings


def _tells_class(values: Sequence[str], truth: NDArray[np.bool_]) -> bool:
    filled = np.array([not is_missing(value) for value in values])
    if filled.sum() < _FEWEST_SCANS:
        return False
    texts, filled_truth = [value for value in values if not is_missing(value)], truth[filled]
    if len(set(texts)) <= min(_MAX_CODES, len(texts) // 2):
        return any(_purity(texts, kind) >= _SURE for kind in _labellings(filled_truth))
    try:
        numbers = np.array([float(text) for text in texts])
    except ValueError:
        return False
    separated = [auc(filled_truth[:, c], numbers) for c in range(filled_truth.shape[1])]
    return any(max(value, 1 - value) >= _SURE for value in separated if value is not None)


def _labellings(truth: NDArray[np.bool_]) -> list[NDArray]:
    """The class of each scan, and each class against the rest; without labellings that are constant."""
    kinds = [np.unique(truth, axis=0, return_inverse=True)[1].ravel(), *truth.T.astype(int)]
    return [kind for kind in kinds if len(set(kind.tolist())) > 1]


def _purity(texts: Sequence[str], kind: NDArray) -> float:
    """Balanced accuracy of predicting, for each value, its most frequent label."""
    by_value = defaultdict(list)
    for text, label in zip(texts, kind.tolist(), strict=True):
        by_value[text].append(label)
    guess = {text: Counter(labels).most_common(1)[0][0] for text, labels in by_value.items()}
    right = np.array([guess[text] == label for text, label in zip(texts, kind.tolist(), strict=True)])
    return float(np.mean([right[kind == label].mean() for label in np.unique(kind)]))


def _tells_patient(values: Sequence[str], patients: Sequence[str]) -> bool:
    """Whether categories correspond one-to-one to patients, or values equal the number in the patient's name."""
    if all(
        _digits(value) and _digits(value) == _digits(patient) for value, patient in zip(values, patients, strict=True)
    ):
        return len(set(patients)) > 1
    numeric = all(value.replace(".", "", 1).replace("-", "", 1).isdigit() for value in values if not is_missing(value))
    pairs = set(zip(values, patients, strict=True))
    one_to_one = len(pairs) == len(set(values)) == len(set(patients))
    return one_to_one and not numeric and len(pairs) >= _FEWEST_SCANS


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text)).lstrip("0") or ("0" if any(map(str.isdigit, text)) else "")
