"""Cohorts in memory, for property tests."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from med_transfer.cohorts import Case, Cohort
from med_transfer.predictions.labels import Labels

NAMES = ("a", "b", "c")


def cohort_of(rows, labels=Labels(NAMES)):  # noqa: B008  frozen
    """Rows of (patient, label) or (patient, label, split)."""
    cases = [
        Case(f"s{n}.nii.gz", Path(f"/s{n}.nii.gz"), patient, label, split="".join(split), row=n + 2)
        for n, (patient, label, *split) in enumerate(rows)
    ]
    return Cohort(tuple(cases), labels)


@st.composite
def cohorts(draw, most_scans=4, least_patients=6):
    """At least six patients a class, each with up to four scans, of which some may be of another class."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    rows = []
    for name in NAMES:
        for number in range(draw(st.integers(least_patients, 25))):
            for scan in range(rng.integers(1, most_scans + 1)):
                rows.append((f"{name}{number}", name if scan == 0 or rng.random() < 0.7 else rng.choice(NAMES).item()))
    return cohort_of([rows[i] for i in rng.permutation(len(rows))])
