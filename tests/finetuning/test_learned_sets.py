"""A run's prediction sets come from its validation scans alone."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from small_plan import small_config, small_plan

from med_transfer.finetuning.decisions.prediction_sets import learn_sets
from med_transfer.model.calibration import fit_prediction_sets


class Trained:
    """What the sets need of a trained ensemble: probabilities of the validation scans, in the members' order."""

    def __init__(self, plan, seed=0):
        rows = [row for part in plan.split.validation for row in part]
        p = np.random.default_rng(seed).random(len(rows))
        self.rows, self.validation = rows, np.c_[1 - p, p]


@pytest.mark.parametrize("members", [1, 3])
def test_thresholds_are_those_of_the_validation_scans(members):
    plan = small_plan(1.0, n=60, n_test=20, members=members)
    trained = Trained(plan)
    cohort = plan.prepared.cohort
    expected = fit_prediction_sets(
        trained.validation, cohort.truth[trained.rows], [cohort.patients[row] for row in trained.rows], 0.8
    )
    assert learn_sets(plan, small_config(calibration={"set_coverage": 0.8}), trained) == expected
    assert sum(expected.n_patients) == len(trained.rows)


def test_no_test_scan_is_looked_at():
    plan = small_plan(1.0, n=60, n_test=20, members=3)
    before = learn_sets(plan, small_config(), Trained(plan))
    cases = list(plan.prepared.cohort.cases)
    for row in plan.split.test:
        cases[row] = replace(cases[row], label="with", patient="other")
    cohort = replace(plan.prepared.cohort, cases=tuple(cases))
    changed = replace(plan, prepared=replace(plan.prepared, cohort=cohort))
    assert learn_sets(changed, small_config(), Trained(plan)) == before


def test_too_few_patients_are_said(caplog):
    plan = small_plan(1.0, n=30, n_test=4)
    with caplog.at_level(logging.WARNING):
        sets = learn_sets(plan, small_config(), Trained(plan))
    assert sets.thresholds == (0.0, 0.0)
    assert "need 9 validation patients of a class; in every set: with (5), without (5)" in caplog.text
