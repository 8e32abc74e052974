"""Which patients are held out in which fold: whole patients, each once."""

import numpy as np
import pytest

from med_transfer.metrics.cross_validation import fewest_patients, held_out_folds
from med_transfer.predictions.labels import Labels

PATIENTS = [f"p{number // 2}" for number in range(60)]
ONE = np.eye(3, dtype=bool)[np.arange(60) // 2 % 3]
SEVERAL = np.random.default_rng(0).random((60, 3)) < 0.4


@pytest.mark.parametrize(("truth", "multilabel"), [(ONE, False), (SEVERAL, True)])
def test_every_scan_is_held_out_once_and_nobody_stands_on_both_sides(truth, multilabel):
    folds = held_out_folds(truth, PATIENTS, Labels(("a", "b", "c"), multilabel=multilabel), seed=1)
    assert len(folds) == 5
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == list(range(60))
    for train, held_out in folds:
        assert not {PATIENTS[row] for row in train} & {PATIENTS[row] for row in held_out}
        assert len(train) + len(held_out) == 60
        assert multilabel or truth[train].any(axis=0).all()


def test_a_class_of_few_patients_makes_fewer_folds_and_one_of_one_patient_none():
    for n_patients, n_folds in ((3, 3), (1, 0)):
        truth = np.zeros((60, 2), dtype=bool)
        truth[:, 1] = np.arange(60) < 2 * n_patients
        truth[:, 0] = ~truth[:, 1]
        assert fewest_patients(truth, PATIENTS) == n_patients
        assert len(held_out_folds(truth, PATIENTS, Labels(("a", "b")))) == n_folds
