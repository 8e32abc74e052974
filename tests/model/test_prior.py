"""Probabilities of a network trained on balanced classes, when the classes are not equally frequent."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit, softmax

from med_transfer.finetuning.batches import prior_offset
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.metrics.recalibration import binary_log_probability, intercept
from med_transfer.model.calibration import calibrate, log_prior_ratio, shifted
from med_transfer.model.calibration.calibrators import TemperatureScaling, Uncalibrated
from med_transfer.model.calibration.fitting import fit
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.labels import Labels

LABELS = Labels(("ground-glass", "part-solid", "solid"))
FINDINGS = Labels(("effusion", "nodule"), multilabel=True)
SHARES = np.array([0.07, 0.08, 0.85])
PRIOR = log_prior_ratio(SHARES, multilabel=False)


def scans(n: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Logits of an over-sure network whose half would be honest were the classes equally frequent, and truth."""
    random = np.random.default_rng(seed)
    truth = np.eye(3, dtype=bool)[random.choice(3, n, p=SHARES)]
    return 2 * (1.5 * truth + random.normal(size=(n, 3))) * 1.5, truth


def calibrated(prior: NDArray | None) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Logits of new scans, their probabilities by what 3000 validation scans taught, and truth."""
    logits, truth = scans(3000, 1)
    calibrator = calibrate(logits, truth, [str(i) for i in range(3000)], LABELS, "temperature", prior).calibrator
    new, new_truth = scans(20_000, 2)
    return new, calibrator.probabilities(new, multilabel=False), new_truth


def test_intercepts_hold_0_where_training_was_balanced():
    _, found, truth = calibrated(PRIOR)
    for c in range(3):
        off = intercept(binary_log_probability(found[:, c]), truth[:, c].astype(int), [str(i) for i in range(20_000)])
        assert off.value == pytest.approx(0, abs=0.2)
    assert found.mean(axis=0) == pytest.approx(SHARES, abs=0.02)


def test_a_rule_of_cost_costs_what_it_promises():
    names = LABELS.names
    costs = {true: {called: 1.0 + 9 * (true != "solid") for called in names if called != true} for true in names}
    point = OperatingPoint(rule="cost", costs=costs)
    matrix = np.array([[costs[true].get(called, 0.0) for called in names] for true in names])
    _, found, truth = calibrated(PRIOR)
    calls = point.predictions(found, LABELS)
    promised = ((found @ matrix) * calls).sum(axis=1).mean()
    paid = ((truth @ matrix) * calls).sum(axis=1).mean()
    assert promised == pytest.approx(paid, rel=0.1)


@pytest.mark.parametrize("rule", ["none", "temperature"])
def test_the_balanced_rule_calls_what_the_network_called(rule):
    logits, truth = scans(200, 3)
    calibrator = fit(rule, logits, truth, PRIOR, multilabel=False)
    point = OperatingPoint.balanced(LABELS, calibrator.without_evidence(3, multilabel=False))
    new, _ = scans(2000, 4)
    found = calibrator.probabilities(new, multilabel=False)
    np.testing.assert_array_equal(point.predictions(found, LABELS).argmax(1), new.argmax(1))
    assert (found.argmax(1) != new.argmax(1)).mean() > 0.05  # the most probable class is another one


def test_the_balanced_rule_of_findings_is_the_sign_of_the_logit():
    random = np.random.default_rng(0)
    logits, truth = random.normal(size=(200, 2)), random.random((200, 2)) < 0.1
    calibrator = fit("temperature", logits, truth, np.array([-2.0, -3.0]), multilabel=True)
    point = OperatingPoint.balanced(FINDINGS, calibrator.without_evidence(2, multilabel=True))
    found = calibrator.probabilities(logits, multilabel=True)
    np.testing.assert_array_equal(point.predictions(found, FINDINGS), logits >= 0)


def test_a_prior_moves_probabilities_as_bayes_says():
    p = softmax(np.random.default_rng(0).normal(size=(9, 3)), axis=1)
    expected = p * SHARES / (p * SHARES).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shifted(p, PRIOR, multilabel=False), expected)
    np.testing.assert_allclose(shifted(expected, -PRIOR, multilabel=False), p)
    odds = logit(p) + logit(0.1) - logit(0.4)
    ratio = log_prior_ratio([0.1] * 3, multilabel=True, trained_at=0.4)
    np.testing.assert_allclose(shifted(p, ratio, multilabel=True), expit(odds))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"balance": "sampling"}, [np.log(0.25 * 2), np.log(0.75 * 2)]),
        ({"balance": "weights"}, [np.log(0.25 * 2), np.log(0.75 * 2)]),
        ({"balance": "none"}, [0, 0]),
    ],
)
def test_what_training_leaves_out(settings, expected):
    truth = np.eye(2, dtype=bool)[[0] * 5 + [1] * 15]
    config = FinetuneConfig.model_validate({"training": settings, "transfer": {"strategy": "full"}})
    assert prior_offset(truth, config, multilabel=False) == pytest.approx(expected)


def test_findings_are_drawn_by_pattern():
    """Of three patterns with a third of the draws each, two have the first finding and one the second."""
    truth = np.array([[1, 0]] * 2 + [[1, 1]] * 3 + [[0, 0]] * 15, dtype=bool)
    config = FinetuneConfig.model_validate({"transfer": {"strategy": "full"}})
    expected = logit([0.25, 0.15]) - logit([2 / 3, 1 / 3])
    assert prior_offset(truth, config, multilabel=True) == pytest.approx(expected)


def test_a_bundle_without_a_bias_calls_the_most_probable_class():
    for calibrator in (Uncalibrated(), TemperatureScaling(temperature=2.0)):
        evidence = calibrator.without_evidence(3, multilabel=False)
        assert evidence == pytest.approx([1 / 3] * 3)
        p = softmax(np.random.default_rng(0).normal(size=(50, 3)), axis=1)
        calls = OperatingPoint.balanced(LABELS, evidence).predictions(p, LABELS)
        np.testing.assert_array_equal(calls.argmax(1), p.argmax(1))
