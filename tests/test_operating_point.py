import numpy as np
import pytest

from med_transfer.errors import ConfigError
from med_transfer.labels import Labels
from med_transfer.operating_point import OperatingPoint

TWO = Labels(("benign", "malignant"))
FINDINGS = Labels(("effusion", "nodule"), multilabel=True)


def test_argmax_calls_one_class_even_at_a_tie():
    calls = OperatingPoint.default(TWO).calls(np.array([[0.7, 0.3], [0.5, 0.5], [0.1, 0.9]]), TWO)
    assert calls.tolist() == [[True, False], [True, False], [False, True]]


def test_thresholds_are_reached_when_equalled():
    point = OperatingPoint(rule="threshold", thresholds={"nodule": 0.2, "effusion": 0.5})
    assert point.calls(np.array([[0.5, 0.1], [0.4, 0.2]]), FINDINGS).tolist() == [[True, False], [False, True]]


def test_the_rule_must_fit_the_labels():
    with pytest.raises(ConfigError, match="rule 'argmax' with labels of several findings a scan; expected 'threshold'"):
        OperatingPoint().calls(np.ones((1, 2)), FINDINGS)
    with pytest.raises(ConfigError, match="rule 'threshold' with labels of one class a scan; expected 'argmax'"):
        OperatingPoint.default(FINDINGS).calls(np.ones((1, 2)), TWO)
    with pytest.raises(ConfigError, match="no threshold for nodule"):
        OperatingPoint(rule="threshold", thresholds={"effusion": 0.5}).calls(np.ones((1, 2)), FINDINGS)


def test_it_reads_as_words():
    assert str(OperatingPoint()) == "the most probable class"
    assert str(OperatingPoint.default(FINDINGS)) == "every finding with a probability of 0.5 or more"
    differing = OperatingPoint(rule="threshold", thresholds={"effusion": 0.5, "nodule": 0.25})
    assert str(differing) == "every finding with a probability of at least 0.5 (effusion), 0.25 (nodule)"
