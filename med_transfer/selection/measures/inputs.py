"""Checks of the inputs of all measures: features [scan, feature] and one class per scan."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.covariance import ledoit_wolf_shrinkage

from med_transfer.errors import UsageError


def checked(features: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Features [scan, feature] in double precision, and labels [scan] renumbered 0, 1, ... without gaps.

    Raises:
        UsageError: not a table, not finite, empty, a different number of labels, or fewer than two classes.
    """
    table, classes = finite_table(features), np.asarray(labels)
    if classes.shape != (len(table),):
        raise UsageError(f"labels of shape {list(classes.shape)}", expected=f"one for each of {len(table)} scans")
    names, numbered = np.unique(classes, return_inverse=True)
    if len(names) < 2:
        raise UsageError(f"{len(names)} class among {len(table)} scans", expected="at least two classes")
    return table, numbered


def finite_table(features: ArrayLike) -> NDArray[np.float64]:
    """A table [scan, feature] of finite numbers in double precision. Raises UsageError."""
    table = np.asarray(features, dtype=np.float64)
    if table.ndim != 2 or 0 in table.shape:
        raise UsageError(f"features of shape {list(table.shape)}", expected="a table [scan, feature] that is not empty")
    broken = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(broken):
        raise UsageError(
            f"{len(broken)} of {len(table)} scans have NaN or infinite features, the first is scan {broken[0]}",
            expected="finite features",
        )
    return table


def shrinkage(table: NDArray[np.float64]) -> float:
    """Ledoit and Wolf's share of the identity in the covariance of features [scan, feature], in [0, 1]; 0 if constant.

    Of two scans it is 0, which rounding may put below 0.
    """
    return max(0.0, float(ledoit_wolf_shrinkage(table))) if np.ptp(table, axis=0).any() else 0.0


def project_to_span(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same points in the axes that they span, [scan, axis], with at most as many axes as scans.

    This is a rotation: distances and scalar products do not change, and later steps cost scans squared instead of
    features squared.
    """
    if table.shape[1] <= len(table):
        return table
    left, singular, _ = np.linalg.svd(table, full_matrices=False)
    return left * singular
