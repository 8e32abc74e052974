"""Class names and how labels become arrays, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.preprocessing import MultiLabelBinarizer, label_binarize

from med_transfer.errors import CohortError
from med_transfer.predictions.labels import Labels


def test_one_hot_equals_sklearn():
    truth = ["b", "a", "c", "b"]
    table = Labels(("a", "b", "c")).one_hot(truth)
    assert table.dtype == bool
    np.testing.assert_array_equal(table, label_binarize(truth, classes=["a", "b", "c"]))


def test_findings_equal_sklearn():
    truth = [["x"], [], ["y", "x"]]
    table = Labels(("y", "x"), multilabel=True).one_hot(truth)
    np.testing.assert_array_equal(table, MultiLabelBinarizer(classes=["y", "x"]).fit_transform(truth))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "a"), r"class names repeat: a, a; expected distinct names\.$"),
        *(
            (("a", name), "label: class name .*; expected one line without ';', .* and not {}, which is none")
            for name in ("b;c", "b\nc", "b\u202ec", "b  c", " b", "", "{}")
        ),
        (("a",), r"label: 1 class \(a\); expected at least two classes\. Add scans of another class"),
    ],
)
def test_unusable_names(names, message):
    with pytest.raises(CohortError, match=message):
        Labels(names)


def test_one_finding_is_enough_when_multilabel():
    assert len(Labels(("nodule",), multilabel=True)) == 1


def test_unknown_name():
    with pytest.raises(CohortError, match=r"unknown class 'c'; expected one of a, b\.$"):
        Labels(("a", "b")).index("c")
