import numpy as np
import pytest

from med_transfer.errors import ConfigError
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.labels import Labels

TWO = Labels(("benign", "malignant"))
FINDINGS = Labels(("effusion", "nodule"), multilabel=True)


def test_argmax_calls_one_class_even_at_a_tie():
    calls = OperatingPoint.default(TWO).predictions(np.array([[0.7, 0.3], [0.5, 0.5], [0.1, 0.9]]), TWO)
    assert calls.tolist() == [[True, False], [True, False], [False, True]]


def test_thresholds_are_reached_when_equalled():
    point = OperatingPoint(rule="threshold", thresholds={"nodule": 0.2, "effusion": 0.5})
    assert point.predictions(np.array([[0.5, 0.1], [0.4, 0.2]]), FINDINGS).tolist() == [[True, False], [False, True]]


def test_the_rule_must_fit_the_labels():
    with pytest.raises(
        ConfigError,
        match="^operating_point: rule 'argmax' with labels of several findings a scan; expected 'threshold'",
    ):
        OperatingPoint().predictions(np.ones((1, 2)), FINDINGS)
    with pytest.raises(
        ConfigError, match="^operating_point: rule 'threshold' with labels of one class a scan; expected 'argmax', "
    ):
        OperatingPoint.default(FINDINGS).predictions(np.ones((1, 2)), TWO)
    with pytest.raises(ConfigError, match=r"^operating_point\.thresholds: no threshold for nodule"):
        OperatingPoint(rule="threshold", thresholds={"effusion": 0.5}).predictions(np.ones((1, 2)), FINDINGS)


THREE = Labels(("a", "b", "c"))


def called(point: OperatingPoint, *probabilities: list[float], labels: Labels = THREE) -> str:
    calls = point.predictions(np.array(probabilities), labels)
    assert calls.sum(axis=1).tolist() == [1] * len(probabilities)
    return "".join(labels.names[number] for number in calls.argmax(axis=1))


def test_one_threshold_alone_decides_its_class():
    point = OperatingPoint(rule="class_threshold", thresholds={"b": 0.2})
    assert called(point, [0.7, 0.2, 0.1], [0.7, 0.19, 0.11], [0.1, 0.19, 0.71], [0.0, 1.0, 0.0]) == "bacb"


def test_of_several_that_reach_their_threshold_the_greatest_multiple_is_called():
    point = OperatingPoint(rule="class_threshold", thresholds={"a": 0.4, "b": 0.2})
    assert called(point, [0.6, 0.35, 0.05], [0.7, 0.3, 0.0], [0.3, 0.1, 0.6], [0.35, 0.1, 0.55]) == "bacc"


def test_when_every_class_has_a_threshold_and_none_is_reached_the_nearest_is_called():
    point = OperatingPoint(rule="class_threshold", thresholds={"a": 0.9, "b": 0.5, "c": 0.8})
    assert called(point, [0.6, 0.35, 0.05], [0.5, 0.1, 0.4]) == "ba"


def test_equal_thresholds_are_argmax():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), size=200)
    point = OperatingPoint(rule="class_threshold", thresholds=dict.fromkeys("abc", 0.45))
    assert (point.predictions(probabilities, THREE) == OperatingPoint().predictions(probabilities, THREE)).all()


def test_the_least_expected_cost_is_elkans_threshold_of_two_classes():
    """Elkan 2001, equation 2: call the second from (c10 - c00) / (c10 - c00 + c01 - c11)."""
    costs = {"benign": {"malignant": 1.0}, "malignant": {"benign": 9.0, "malignant": 2.0}}
    limit = 1 / (1 + 9 - 2)
    second = np.linspace(0.001, 0.999, 997)
    calls = OperatingPoint(rule="cost", costs=costs).predictions(np.stack([1 - second, second], axis=1), TWO)
    assert (calls[:, 1] == (second > limit)).all()


def test_the_least_expected_cost_of_three_classes_may_be_a_compromise():
    costs = {"a": {"b": 1, "c": 9}, "b": {"a": 1, "c": 1}, "c": {"a": 9, "b": 1}}
    assert called(OperatingPoint(rule="cost", costs=costs), [0.5, 0.05, 0.45], [0.95, 0.0, 0.05]) == "ba"
    even = {true: {other: 1 for other in "abc" if other != true} for true in "abc"}
    assert called(OperatingPoint(rule="cost", costs=even), [0.5, 0.05, 0.45], [0.2, 0.3, 0.5]) == "ac"


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (OperatingPoint(rule="class_threshold", thresholds={"a": 0.0}), "found 0 for a; expected a probability above"),
        (OperatingPoint(rule="class_threshold", thresholds={"a": 1.2}), "found 1.2 for a"),
        (OperatingPoint(rule="class_threshold"), "no threshold; expected one for at least one of a, b, c"),
        (OperatingPoint(rule="cost", costs={"a": {"b": 1}}), "no cost of calling c what is a; expected a: {c: ...}"),
        (OperatingPoint(rule="cost", costs={"z": {"b": 1}}), "a cost for 'z'"),
        (
            OperatingPoint(rule="cost", costs={x: {"a": 1, "b": 1, "c": 1} for x in "abc"}),
            "calling b what is a costs 1; expected more than the right call, which costs 1",
        ),
    ],
)
def test_a_point_that_makes_no_sense_is_refused(point, message):
    key = "costs" if point.rule == "cost" else "thresholds"
    with pytest.raises(ConfigError, match=rf"^operating_point\.{key}: {message}"):
        point.predictions(np.ones((1, 3)) / 3, THREE)


def test_it_reads_as_words():
    one = OperatingPoint(rule="class_threshold", thresholds={"b": 0.125})
    assert str(one) == "b from a probability of 0.125, else the most probable of the others"
    two = OperatingPoint(rule="class_threshold", thresholds={"a": 0.25, "b": 0.125})
    assert str(two).startswith("a from a probability of 0.25, b from a probability of 0.125; of several the one with")
    assert str(two).endswith("; else the most probable of those without, or the greatest multiple")
    assert str(OperatingPoint(rule="cost")) == "the class with the lowest expected cost"
    assert str(OperatingPoint()) == "the most probable class"
    assert str(OperatingPoint.default(FINDINGS)) == "every finding with a probability of 0.5 or more"
    differing = OperatingPoint(rule="threshold", thresholds={"effusion": 0.5, "nodule": 0.25})
    assert str(differing) == "every finding with a probability of at least 0.5 (effusion), 0.25 (nodule)"


@pytest.mark.parametrize(
    ("point", "said"),
    [
        (OperatingPoint(rule="class_threshold", thresholds={"b": 0.9996}), "b from a probability of 0.9996, else"),
        (OperatingPoint(rule="threshold", thresholds={"effusion": 0.99997, "nodule": 1.0}), "0.9999 (effusion), 1 (n"),
        (OperatingPoint(rule="threshold", thresholds=dict.fromkeys(FINDINGS.names, 0.9998)), "of 0.9998 or more"),
    ],
)
def test_a_threshold_below_1_is_not_said_to_be_1(point, said):
    assert said in str(point)
