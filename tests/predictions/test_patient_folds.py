"""Folds by patient, with rare kinds or few patients."""

import numpy as np
import pytest

from med_transfer.errors import UsageError
from med_transfer.predictions.patient_folds import patient_folds


def test_a_kind_of_fewer_scans_than_folds_does_not_count_where_all_are_so_rare():
    names = [f"p{number}" for number in range(6)]
    folds = patient_folds(np.arange(6) // 2, names, 3)
    np.testing.assert_array_equal(folds, patient_folds(np.zeros(6), names, 3))


def test_fewer_patients_than_folds_are_refused():
    with pytest.raises(UsageError, match="2 patients for 3 folds; expected at least one a fold"):
        patient_folds([0, 0, 1, 1], ["a", "a", "b", "b"], 3)
