"""Folds by patient, with rare kinds or few patients."""

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from med_transfer.errors import UsageError
from med_transfer.predictions.patient_folds import patient_folds


def test_a_kind_of_fewer_scans_than_folds_does_not_count_where_all_are_so_rare():
    names = [f"p{number}" for number in range(6)]
    folds = patient_folds(np.arange(6) // 2, names, 3)
    np.testing.assert_array_equal(folds, patient_folds(np.zeros(6), names, 3))


def test_fewer_patients_than_folds_are_refused():
    with pytest.raises(UsageError, match="2 patients for 3 folds; expected at least one a fold"):
        patient_folds([0, 0, 1, 1], ["a", "a", "b", "b"], 3)


@pytest.mark.parametrize("n_kinds", [1, 2, 5])
@pytest.mark.parametrize("n_folds", [2, 3, 5, 8])
@pytest.mark.filterwarnings("ignore:The least populated class")
def test_folds_are_those_of_scikit_learn(n_kinds, n_folds):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        n_scans = int(rng.integers(3 * n_folds, 80))
        kinds = np.minimum(rng.geometric(0.4, n_scans) - 1, n_kinds - 1)
        patients = np.r_[np.arange(n_folds), rng.integers(0, n_scans, n_scans - n_folds)].astype(str)
        divider = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        found = patient_folds(kinds, patients.tolist(), n_folds, seed)
        for number, (_, part) in enumerate(divider.split(kinds, kinds, patients)):
            assert np.flatnonzero(found == number).tolist() == part.tolist()
