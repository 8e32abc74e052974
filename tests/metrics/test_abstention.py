"""Prediction sets on test scans, and the abstention curve."""

import numpy as np
import pytest
from simulated_scores import FINDINGS, THREE, findings, three_classes
from statsmodels.stats.proportion import proportion_confint

from med_transfer.metrics.abstention import SHARES, abstention_curve, certainty
from med_transfer.metrics.config import EvaluationConfig
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.prediction_sets import measure_sets
from med_transfer.model.calibration import PredictionSets
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.labels import Labels


def measured(data, thresholds, **options):
    predictions = LabelledPredictions.of(data.truth, data.probabilities, data.patients, data.labels)
    sets = PredictionSets(coverage=0.9, thresholds=thresholds, n_patients=(30, 30, 30))
    return measure_sets(predictions, sets, **options)


def curve(data):
    predictions = LabelledPredictions.of(data.truth, data.probabilities, data.patients, data.labels)
    return abstention_curve(predictions, EvaluationConfig())


@pytest.mark.parametrize("make", [three_classes, findings])
def test_coverage_of_each_class_with_wilson_s_interval(make):
    data, thresholds = make(), (0.2, 0.3, 0.25)
    set_metrics = measured(data, thresholds)
    for c, (name, of_class) in enumerate(set_metrics.classes.items()):
        assert name == data.labels.names[c]
        inside = data.probabilities[data.truth[:, c], c] >= thresholds[c]
        assert of_class.coverage.value == pytest.approx(inside.mean())
        theirs = proportion_confint(inside.sum(), len(inside), method="wilson")
        assert of_class.coverage.ci95 == pytest.approx(theirs)
    sizes = (data.probabilities >= np.array(thresholds)).sum(axis=1)
    assert sum(set_metrics.sizes) == 120
    assert set_metrics.mean_size == pytest.approx(sizes.mean())
    pairs = data.truth & (data.probabilities >= np.array(thresholds))
    assert set_metrics.coverage.value == pytest.approx(pairs.sum() / data.truth.sum())
    assert (set_metrics.right_when_single is None) == data.labels.multilabel


def test_sets_of_one_class_are_right_or_wrong():
    data = three_classes()
    thresholds = (0.5, 0.5, 0.5)
    inside = data.probabilities >= 0.5
    single = inside.sum(axis=1) == 1
    expected = (inside & data.truth)[single].any(axis=1).mean()
    assert measured(data, thresholds).right_when_single.value == pytest.approx(expected)
    never = measured(data, (1.0, 1.0, 1.0))
    assert (never.right_when_single.value, never.right_when_single.reason) == (None, "no set holds exactly one class")
    assert never.short_of_target == list(THREE.names)
    assert measured(data, (0.0, 0.0, 0.0)).short_of_target == []


def test_with_several_scans_a_patient_there_is_an_interval_over_patients():
    set_metrics = measured(three_classes(scans_per_patient=3), (0.3, 0.3, 0.3))
    assert all(class_sets.coverage.ci95_cluster is not None for class_sets in set_metrics.classes.values())


def test_without_scans_of_a_class_its_coverage_is_undefined():
    data = three_classes()
    there = ~data.truth[:, 2]
    predictions = LabelledPredictions.of(
        data.truth[there], data.probabilities[there], list(np.array(data.patients)[there]), THREE
    )
    set_metrics = measure_sets(predictions, PredictionSets(coverage=0.9, thresholds=(0.2,) * 3, n_patients=(9,) * 3))
    assert set_metrics.classes["malignant"].coverage.value is None
    assert set_metrics.classes["malignant"].coverage.reason == "no scan of class malignant among the evaluated scans"


def test_certainty_agrees_for_two_classes_and_one_finding():
    p = np.random.default_rng(0).random((50, 1))
    assert certainty(np.c_[1 - p, p], multilabel=False) == pytest.approx(certainty(p, multilabel=True))


def test_the_curve_is_the_sensitivity_of_the_most_certain_scans():
    data = three_classes()
    points = curve(data)
    assert [point.share for point in points] == pytest.approx(SHARES, abs=1e-9)
    best_first = np.argsort(-data.probabilities.max(axis=1))
    for point in points:
        most_certain = best_first[: point.n_scans]
        right = data.probabilities[most_certain].argmax(axis=1) == data.truth[most_certain].argmax(axis=1)
        for c, name in enumerate(THREE.names):
            has = data.truth[most_certain, c]
            assert point.sensitivity[name].value == pytest.approx(right[has].mean())
            assert point.called[name] == pytest.approx(has.sum() / data.truth[:, c].sum())
        assert data.probabilities[most_certain].max(axis=1).min() == point.certainty


def test_certain_scans_are_found_more_often_where_certainty_means_something():
    points = curve(three_classes(600))
    assert points[-1].balanced_accuracy.value > points[0].balanced_accuracy.value + 0.1


def test_scans_that_are_equally_certain_stay_together():
    data = three_classes()
    equal = type(data)(data.truth, np.full((120, 3), 1 / 3), data.patients, THREE)
    (only,) = curve(equal)
    assert (only.share, only.n_scans) == (1.0, 120)


def test_findings_are_ordered_by_the_least_certain_one():
    data = findings()
    points = curve(data)
    assert points[0].share == 1.0
    least = np.abs(data.probabilities - 0.5).min(axis=1) + 0.5
    assert [point.n_scans for point in points] == [(least >= point.certainty).sum() for point in points]
    assert set(points[0].sensitivity) == set(FINDINGS.names)


def test_where_calls_do_not_follow_frequency_certainty_does_not_either():
    """The order is that of the probabilities at equal classes: a rare class is not left to a human for being rare."""
    data, shares = three_classes(), np.array([0.05, 0.15, 0.8])
    rare = data.probabilities * shares / (data.probabilities * shares).sum(axis=1, keepdims=True)
    point = OperatingPoint.balanced(data.labels, shares.tolist())
    config = EvaluationConfig()
    plain = LabelledPredictions.of(data.truth, data.probabilities, data.patients, data.labels)
    moved = LabelledPredictions.of(data.truth, rare, data.patients, data.labels, point)
    for ours, theirs in zip(*(abstention_curve(each, config) for each in (moved, plain)), strict=True):
        assert (ours.n_scans, ours.called) == (theirs.n_scans, theirs.called)
        assert ours.balanced_accuracy.value == pytest.approx(theirs.balanced_accuracy.value)


TWO = Labels(("healthy", "sick"))


@pytest.mark.parametrize(
    "point",
    [
        OperatingPoint(rule="class_threshold", thresholds={"sick": 0.1}, chosen_on="validation"),
        OperatingPoint(rule="class_threshold", thresholds={"sick": 0.1, "healthy": 0.9}, chosen_on="validation"),
        OperatingPoint(rule="cost", costs={"healthy": {"sick": 1.0}, "sick": {"healthy": 9.0}}),
    ],
    ids=["one threshold", "a threshold each", "costs"],
)
def test_the_least_certain_scans_are_those_near_the_threshold(point):
    """Thresholds of classes and costs were ignored: called sick at 0.12, a scan was more certain than one at 0.5."""
    sick = np.array([0.001, 0.09, 0.12, 0.5, 0.9])
    truth = np.eye(2, dtype=bool)[[0, 0, 1, 1, 1]]
    predictions = LabelledPredictions.of(truth, np.c_[1 - sick, sick], list("abcde"), TWO, point)
    points = abstention_curve(predictions, EvaluationConfig())
    odds = 9 * sick / (1 - sick)  # 1 at the threshold
    falling = np.sort(np.maximum(odds, 1) / (1 + odds))[::-1]
    for point_of_curve in points:
        assert point_of_curve.certainty == pytest.approx(falling[point_of_curve.n_scans - 1])
    assert points[0].n_scans == 5
