"""Folds by patient, held against scikit-learn's."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from med_transfer.errors import UsageError
from med_transfer.predictions.patient_folds import patient_folds


@settings(max_examples=50)
@given(
    patients=st.lists(st.tuples(st.integers(0, 8), st.integers(1, 4)), min_size=9, max_size=40),
    n_folds=st.integers(2, 9),
    seed=st.integers(0, 2**32 - 1),
    findings=st.booleans(),
)
def test_the_folds_are_those_of_scikit_learn(patients, n_folds, seed, findings):
    """Of classes, or of findings, each pattern of which is a kind; a patient's scans are of several."""
    names = [f"p{number}" for number, (_, n_scans) in enumerate(patients) for _ in range(n_scans)]
    kinds = np.array([(kind + scan // 2) % 9 for kind, n_scans in patients for scan in range(n_scans)])
    if np.bincount(kinds).max() < n_folds:
        kinds = np.zeros_like(kinds)
    divider = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    expected = np.zeros(len(names), dtype=int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a kind that has fewer scans than there are folds
        for number, (_, part) in enumerate(divider.split(names, kinds, names)):
            expected[part] = number
    of_findings = (kinds[:, None] >> np.arange(4)[::-1]) % 2 == 1
    np.testing.assert_array_equal(patient_folds(of_findings if findings else kinds, names, n_folds, seed), expected)


def test_a_kind_of_fewer_scans_than_folds_does_not_count_where_all_are_so_rare():
    names = [f"p{number}" for number in range(6)]
    folds = patient_folds(np.arange(6) // 2, names, 3)
    np.testing.assert_array_equal(folds, patient_folds(np.zeros(6), names, 3))


def test_fewer_patients_than_folds_are_refused():
    with pytest.raises(UsageError, match="2 patients for 3 folds; expected at least one a fold"):
        patient_folds([0, 0, 1, 1], ["a", "a", "b", "b"], 3)
