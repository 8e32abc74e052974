"""A run's prediction sets come from its validation scans only."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from small_run_data import small_config, small_run_data

from med_transfer.finetuning.decisions.validation_decisions import choose_prediction_sets
from med_transfer.model.calibration import fit_prediction_sets


class Trained:
    """What the sets need of a trained ensemble: probabilities of the validation scans, in the members' order."""

    def __init__(self, run_data, seed=0):
        rows = [row for part in run_data.split.validation for row in part]
        p = np.random.default_rng(seed).random(len(rows))
        self.rows, self.validation = rows, np.c_[1 - p, p]


@pytest.mark.parametrize("members", [1, 3])
def test_thresholds_are_those_of_the_validation_scans(members):
    run_data = small_run_data(1.0, n=60, n_test=20, members=members)
    trained = Trained(run_data)
    cohort = run_data.prepared.cohort
    expected = fit_prediction_sets(
        trained.validation, cohort.truth[trained.rows], [cohort.patients[row] for row in trained.rows], 0.8
    )
    assert choose_prediction_sets(run_data, small_config(calibration={"set_coverage": 0.8}), trained) == expected
    assert sum(expected.n_patients) == len(trained.rows)


def test_no_test_scan_is_looked_at():
    run_data = small_run_data(1.0, n=60, n_test=20, members=3)
    before = choose_prediction_sets(run_data, small_config(), Trained(run_data))
    cases = list(run_data.prepared.cohort.cases)
    for row in run_data.split.test:
        cases[row] = replace(cases[row], label="with", patient="other")
    cohort = replace(run_data.prepared.cohort, cases=tuple(cases))
    changed = replace(run_data, prepared=replace(run_data.prepared, cohort=cohort))
    assert choose_prediction_sets(changed, small_config(), Trained(run_data)) == before


def test_too_few_patients_are_said(caplog):
    run_data = small_run_data(1.0, n=30, n_test=4)
    with caplog.at_level(logging.WARNING):
        sets = choose_prediction_sets(run_data, small_config(), Trained(run_data))
    assert sets.thresholds == (0.0, 0.0)
    assert "need 9 validation patients of a class; in every set: with (5), without (5)" in caplog.text
