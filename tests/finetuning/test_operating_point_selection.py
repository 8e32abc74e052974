"""Thresholds from validation scans, against scikit-learn and an exhaustive search."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, recall_score, roc_curve
from statsmodels.stats.proportion import proportion_confint

from med_transfer.errors import ConfigError, TooFewPatients
from med_transfer.finetuning.decisions.config import OperatingPointConfig
from med_transfer.finetuning.decisions.operating_point_selection import (
    check_point,
    choose_point,
    sensitivity_threshold,
    youden_threshold,
)
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.predictions.labels import Labels

CLASSES = Labels(("ground-glass", "part-solid", "solid"))
FINDINGS = Labels(("effusion", "nodule"), multilabel=True)


def validation(labels: Labels, n: int = 90, seed: int = 0):
    """Probabilities [scan, class] that know something of the truth, and the truth; one scan a patient."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, len(labels)))
    if labels.multilabel:
        truth = random.random((n, len(labels))) < 0.3
        probabilities = 1 / (1 + np.exp(-(logits + 1.5 * truth - 1)))
    else:
        truth = np.eye(len(labels), dtype=bool)[random.choice(len(labels), n, p=[0.6, 0.15, 0.25])]
        odds = np.exp(logits + 1.2 * truth)
        probabilities = odds / odds.sum(axis=1, keepdims=True)
    return probabilities, truth, [f"p{i}" for i in range(n)]


def chosen(labels: Labels, **config):
    wanted = OperatingPointConfig.model_validate(config)
    probabilities, truth, patients = validation(labels)
    point, reached = choose_point(wanted, LabelledPredictions.of(truth, probabilities, patients, labels))
    return point, reached, point.predictions(probabilities, labels), truth


scores = st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=2, max_size=40).filter(
    lambda pairs: len({case for _, case in pairs}) == 2
)


@settings(max_examples=60)
@given(scores, st.floats(0.01, 1.0))
def test_the_threshold_of_a_sensitivity_is_the_highest_that_reaches_it(pairs, at_least):
    probabilities, truth = (np.array(column) for column in zip(*pairs, strict=True))
    probabilities = probabilities / 20
    found = sensitivity_threshold(probabilities, truth, at_least)
    by_threshold = {t: recall_score(truth, probabilities >= t) for t in np.unique(probabilities)}
    assert found == max(t for t, recall in by_threshold.items() if recall >= at_least - 1e-9)


@settings(max_examples=60)
@given(scores)
def test_youdens_threshold_is_the_best_of_all(pairs):
    probabilities, truth = (np.array(column) for column in zip(*pairs, strict=True))

    def index(threshold: float) -> float:
        return (probabilities >= threshold)[truth].mean() - (probabilities >= threshold)[~truth].mean()

    found = youden_threshold(probabilities.astype(float), truth)
    best = max(index(t) for t in np.unique(probabilities))
    assert index(found) == pytest.approx(best)
    assert found == max(t for t in np.unique(probabilities) if index(t) == pytest.approx(best))


def test_of_equal_youden_thresholds_the_highest_is_chosen_whatever_the_rounding():
    truth = np.array([False, False, True, True, True, False, True, True, True])
    probabilities = np.array([0, 0, 0, 0, 0, 0.5, 0.5, 0.5, 1])  # at .5 and at 1 the index is 1 / 6
    assert youden_threshold(probabilities, truth) == 1


def test_19_of_20_are_enough_for_95_percent():
    truth = np.array([True] * 20 + [False] * 5)
    probabilities = np.concatenate([np.linspace(0.05, 1, 20), np.full(5, 0.5)])
    assert sensitivity_threshold(probabilities, truth, 0.95) == pytest.approx(0.1)


def test_a_rare_class_is_found_as_often_as_was_asked_and_no_more_is_called_than_needed():
    point, reached, calls, truth = chosen(CLASSES, rule="sensitivity", at_least=0.95, **{"class": "part-solid"})
    assert (point.rule, list(point.thresholds), point.chosen_on) == ("class_threshold", ["part-solid"], "validation")
    hits, n = int((calls & truth)[:, 1].sum()), int(truth[:, 1].sum())
    assert hits / n >= 0.95 > (hits - 1) / n
    found = reached.sensitivity["part-solid"]
    assert found.value == hits / n
    assert found.ci95 == pytest.approx(proportion_confint(hits, n, method="wilson"))
    assert "the threshold was chosen on" in found.method
    assert calls.sum(axis=1).tolist() == [1] * len(truth)


def test_among_the_others_the_most_probable_is_called():
    probabilities, _, _ = validation(CLASSES)
    _, _, calls, _ = chosen(CLASSES, rule="sensitivity", at_least=0.6, **{"class": "part-solid"})
    others = ~calls[:, 1]
    assert (calls[others].argmax(axis=1) == np.delete(probabilities, 1, axis=1)[others].argmax(axis=1) * 2).all()


def test_youden_of_every_class_against_the_rest():
    probabilities, truth, _ = validation(CLASSES)
    point, reached, calls, _ = chosen(CLASSES, rule="youden")
    for number, name in enumerate(CLASSES.names):
        fpr, tpr, thresholds = roc_curve(truth[:, number], probabilities[:, number])
        assert point.thresholds[name] == thresholds[(tpr - fpr).argmax()]
    matrix = confusion_matrix(truth.argmax(axis=1), calls.argmax(axis=1))
    assert [reached.sensitivity[name].value for name in CLASSES.names] == pytest.approx(
        matrix.diagonal() / matrix.sum(axis=1)
    )


def test_findings_have_a_threshold_each_and_those_not_named_keep_a_half():
    both, reached, calls, truth = chosen(FINDINGS, rule="sensitivity", at_least=0.8)
    assert set(both.thresholds) == set(FINDINGS.names)
    assert (recall_score(truth, calls, average=None) >= 0.8).all()
    assert reached.aim == "sensitivity of every finding at least 80 %"
    one, *_ = chosen(FINDINGS, rule="sensitivity", at_least=0.8, **{"class": "nodule"})
    assert one.thresholds == {"effusion": 0.5, "nodule": both.thresholds["nodule"]}


@pytest.mark.parametrize("labels", [CLASSES, FINDINGS])
def test_what_is_not_chosen_is_fixed_and_measured_all_the_same(labels):
    point, reached, calls, truth = chosen(labels)
    assert point.chosen_on == "fixed"
    recall = recall_score(truth, calls, average=None)
    assert [reached.sensitivity[name].value for name in labels.names] == pytest.approx(recall)
    assert "chosen" not in reached.sensitivity[labels.names[0]].method


def test_patients_with_several_scans_get_an_interval_over_patients():
    probabilities, truth, _ = validation(CLASSES)
    wanted = OperatingPointConfig(rule="youden")
    patients = [f"p{i // 2}" for i in range(len(truth))]
    _, reached = choose_point(wanted, LabelledPredictions.of(truth, probabilities, patients, CLASSES), n_networks=5)
    assert reached.sensitivity["solid"].ci95_cluster is not None
    assert (reached.n_scans, reached.n_patients, reached.n_networks) == (90, 45, 5)


def test_few_cases_and_an_aim_reached_by_calling_everything_are_warned_of(caplog):
    truth = CLASSES.one_hot(["part-solid"] * 3 + ["solid"] * 5 + ["ground-glass"] * 5)
    probabilities = np.full((13, 3), 1 / 3)
    wanted = OperatingPointConfig.model_validate({"rule": "sensitivity", "class": "part-solid", "at_least": 0.95})
    _, reached = choose_point(wanted, LabelledPredictions.of(truth, probabilities, list("abcdefghijklm"), CLASSES))
    few, all_called = reached.warnings
    assert few.startswith("0.95 of 3 validation scans of part-solid is all of them, so the threshold is the lowest")
    assert all_called == "the sensitivity of part-solid is reached only by calling every validation scan so"
    assert few in caplog.text


def test_an_aim_out_of_reach_is_refused_and_nothing_is_lost():
    truth = CLASSES.one_hot(["part-solid", "part-solid", "solid", "ground-glass"])
    probabilities = np.array([[0.0, 0.0, 1.0], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8], [0.9, 0.1, 0.0]])
    wanted = OperatingPointConfig.model_validate({"rule": "sensitivity", "class": "part-solid", "at_least": 0.95})
    with pytest.raises(
        ConfigError,
        match="^operating_point: no threshold above 0 reaches the aim for part-solid.*what was trained is kept",
    ):
        choose_point(wanted, LabelledPredictions.of(truth, probabilities, list("abcd"), CLASSES))


NO_NODULE = np.array([[True, False], [False, False]])


@pytest.mark.parametrize(
    ("labels", "config", "error", "message"),
    [
        (
            CLASSES,
            {"rule": "sensitivity", "at_least": 0.9, "class": "Solid"},
            ConfigError,
            "^operating_point.class: class 'Solid'; expected one of ground-glass, part-solid, solid",
        ),
        (
            CLASSES,
            {"rule": "sensitivity", "at_least": 0.9},
            ConfigError,
            r"^operating_point\.class: rule sensitivity without class",
        ),
        (
            CLASSES,
            {"rule": "thresholds", "thresholds": {"Solid": 0.9}},
            ConfigError,
            r"^operating_point\.thresholds: a threshold for 'Solid'",
        ),
        (
            FINDINGS,
            {"rule": "thresholds", "thresholds": {"nodule": 0.9}},
            ConfigError,
            r"^operating_point\.thresholds: no threshold for effusion",
        ),
        (
            FINDINGS,
            {"rule": "cost", "costs": {"nodule": {"effusion": 1}}},
            ConfigError,
            r"^operating_point\.rule: rule cost with several findings.*State for each finding the threshold \(cost of",
        ),
        (
            CLASSES,
            {"rule": "cost", "costs": {"solid": {"part-solid": 2}}},
            ConfigError,
            r"^operating_point\.costs: no cost of calling part-solid what is ground-glass",
        ),
        (
            FINDINGS,
            {"rule": "youden"},
            TooFewPatients,
            "^operating_point: no validation scan of nodule, so its threshold",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_before_training(labels, config, error, message):
    truth = NO_NODULE if labels is FINDINGS else np.eye(3, dtype=bool)
    with pytest.raises(error, match=message):
        check_point(OperatingPointConfig.model_validate(config), truth, labels)


def test_a_finding_that_every_validation_scan_has_leaves_nothing_to_choose():
    with pytest.raises(TooFewPatients, match="^operating_point: no validation scan of another class than nodule"):
        check_point(OperatingPointConfig(rule="youden"), np.array([[True, True], [False, True]]), FINDINGS)
