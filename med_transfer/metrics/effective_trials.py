"""Effective number of independent scans behind a rate, where patients have several scans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t


def effective_trials(
    hits: NDArray[np.bool_], among: NDArray[np.bool_], patients: Sequence[str], confidence: float = 0.95
) -> float:
    """Return the number of scans divided by the design effect, corrected for estimating it from few patients.

    If nothing varies, it is the number of patients. docs/measured/intervals.md has the coverage of the intervals.

    Args:
        hits, among: boolean [scan]; the rate is the share of hits among the scans marked in ``among``, at least one.
        patients: patient of each scan.
        confidence: confidence level of the interval that uses the result.

    Source: Korn & Graubard 1998, Surv Methodol 24:193.
    """
    n_scans, n_patients = (
        int(among.sum()),
        len({whose for whose, marked in zip(patients, among, strict=True) if marked}),
    )
    if n_patients == n_scans:
        return n_scans
    rate = float(hits[among].mean())
    influence = by_patient(np.where(among, hits - rate, 0) / n_scans, patients)
    variance = n_patients / max(n_patients - 1, 1) * float((influence**2).sum())
    if variance < 1e-12 or n_patients < 2:
        return n_patients
    upper = (1 + confidence) / 2
    few = float(t.ppf(upper, n_scans - 1) / t.ppf(upper, n_patients - 1)) ** 2
    return float(np.clip(rate * (1 - rate) / variance * few, 1, n_scans))


def by_patient(of_scan: NDArray[np.float64], patients: Sequence[str]) -> NDArray[np.float64]:
    """Return the sum over each patient's scans, [patient]."""
    _, patient = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    return np.bincount(patient, weights=of_scan).astype(np.float64)
