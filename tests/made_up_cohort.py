"""Prepared scans without images: only what the table and the headers say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from med_transfer.cohorts import Case, Cohort, PreparedCohort, PreparedScan
from med_transfer.predictions.labels import Labels


def made_up_cohort(
    labels: Sequence[str],
    columns: Mapping[str, Sequence[str]] | None = None,
    facts: Mapping[str, Sequence[str | float]] | None = None,
    patients: Sequence[str] | None = None,
) -> PreparedCohort:
    """One scan a label, each of a patient of its own unless told otherwise."""
    patients = patients or [f"p{i}" for i in range(len(labels))]
    cases, scans = [], []
    for i, label in enumerate(labels):
        row = {name: values[i] for name, values in (columns or {}).items()}
        made = {name: values[i] for name, values in (facts or {}).items()}
        cases.append(Case(f"s{i}", Path(f"s{i}"), patients[i], label, columns=row))
        scans.append(
            PreparedScan(np.zeros((1, 1, 1, 1), np.float16), (f"h{i}",), np.zeros(1), ((1, 1, 1),), "", "", "", made)
        )
    return PreparedCohort(Cohort(tuple(cases), Labels(tuple(sorted(set(labels))))), tuple(scans))
