"""Net benefit against its definition by a confusion matrix, and properties of any decision curve."""

import numpy as np
import pytest
from simulated_scores import THREE, Simulated, findings, three_classes
from sklearn.metrics import confusion_matrix

from med_transfer.metrics.calibration import calibration
from med_transfer.metrics.decision_curve import THRESHOLDS, decision_curves
from med_transfer.metrics.intervals import PatientBootstrap
from med_transfer.metrics.labelled_predictions import LabelledPredictions


def curves_of(data, n_boot=200):
    predictions = LabelledPredictions.of(data.truth, data.probabilities, data.patients, data.labels)
    return decision_curves(predictions, PatientBootstrap(data.patients, n_boot))


@pytest.mark.parametrize("make", [three_classes, findings])
def test_net_benefit_is_true_positives_less_false_ones_at_the_odds_of_the_threshold(make):
    data = make()
    for c, (name, curve) in enumerate(curves_of(data).items()):
        assert name == data.labels.names[c]
        assert [point.threshold for point in curve.points] == list(THRESHOLDS)
        for point in curve.points:
            acted = data.probabilities[:, c] >= point.threshold
            (_, false_positive), (_, true_positive) = confusion_matrix(data.truth[:, c], acted)
            odds, prevalence = point.threshold / (1 - point.threshold), data.truth[:, c].mean()
            assert point.net_benefit == pytest.approx((true_positive - odds * false_positive) / 120)
            assert point.treat_all == pytest.approx(prevalence - odds * (1 - prevalence))
            assert point.gain == pytest.approx(point.net_benefit - max(point.treat_all, 0))
            assert point.ci95[0] <= point.net_benefit <= point.ci95[1]


def test_perfect_probabilities_have_the_prevalence_as_net_benefit_everywhere():
    data = three_classes()
    perfect = Simulated(data.truth, data.truth * 1.0, data.patients, THREE)
    for name, curve in curves_of(perfect).items():
        prevalence = data.truth[:, THREE.index(name)].mean()
        assert [point.net_benefit for point in curve.points] == pytest.approx([prevalence] * len(THRESHOLDS))
        assert all(point.useful for point in curve.points)


def test_the_prevalence_alone_is_never_useful():
    data = three_classes()
    blind = Simulated(data.truth, np.tile(data.truth.mean(axis=0), (120, 1)), data.patients, THREE)
    for curve in curves_of(blind).values():
        assert all(point.gain <= 1e-12 for point in curve.points)
        assert not any(point.useful for point in curve.points)


def test_the_interval_is_over_patients():
    """Four copies of every scan are no more evidence than one."""
    data = three_classes(60)
    copied = Simulated(data.truth.repeat(4, 0), data.probabilities.repeat(4, 0), np.repeat(data.patients, 4), THREE)
    for ours, theirs in zip(curves_of(data)["benign"].points, curves_of(copied)["benign"].points, strict=True):
        assert ours.ci95 == pytest.approx(theirs.ci95)
        assert ours.gain_ci95 == pytest.approx(theirs.gain_ci95)


def test_a_class_without_cases_has_no_curve():
    data = three_classes()
    there = ~data.truth[:, 2]
    few = Simulated(data.truth[there], data.probabilities[there], np.array(data.patients)[there], THREE)
    assert list(curves_of(few)) == ["healthy", "benign"]


def test_a_class_of_few_patients_has_neither_a_curve_nor_a_slope():
    data = three_classes()
    malignant = np.flatnonzero(data.truth[:, 2])
    few = np.setdiff1d(np.arange(120), malignant[9:])
    cut = Simulated(data.truth[few], data.probabilities[few], np.array(data.patients)[few], THREE)
    assert list(curves_of(cut)) == ["healthy", "benign"]
    predictions = LabelledPredictions.of(cut.truth, cut.probabilities, cut.patients, cut.labels)
    found = calibration(predictions, PatientBootstrap(cut.patients, 50))
    assert found.classes["malignant"].slope.value is None
    assert found.classes["malignant"].slope.reason == "fewer than 10 patients with or without the class"
    assert found.classes["benign"].slope.value is not None
    assert found.slope.value is not None
    twice = np.repeat(few, 2)  # more scans do not replace patients
    again = Simulated(data.truth[twice], data.probabilities[twice], np.array(data.patients)[twice], THREE)
    assert list(curves_of(again)) == ["healthy", "benign"]
