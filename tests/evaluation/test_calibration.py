import numpy as np
import pytest
import torch
from simulated_scores import findings, three_classes
from sklearn.metrics import brier_score_loss
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from med_transfer.evaluation.calibration import (
    brier_by_scan,
    claims,
    expected_calibration_error,
    reliability,
)


def test_brier_equals_scikit_learn():
    data = three_classes()
    ours = brier_by_scan(data.truth, data.probabilities, multilabel=False).mean()
    theirs = brier_score_loss(data.truth.argmax(axis=1), data.probabilities, labels=[0, 1, 2], scale_by_half=True)
    assert ours == pytest.approx(theirs)


def test_brier_of_findings_is_the_mean_of_the_binary_scores():
    data = findings()
    each = [brier_score_loss(data.truth[:, c], data.probabilities[:, c]) for c in range(3)]
    assert brier_by_scan(data.truth, data.probabilities, multilabel=True).mean() == pytest.approx(np.mean(each))


def test_expected_calibration_error_equals_torchmetrics():
    data = three_classes(400)
    ours = expected_calibration_error(reliability(*claims(data.truth, data.probabilities, multilabel=False)))
    classes = torch.tensor(data.truth.argmax(axis=1))
    theirs = multiclass_calibration_error(torch.tensor(data.probabilities), classes, num_classes=3, n_bins=10)
    assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_expected_calibration_error_of_findings_equals_torchmetrics():
    data = findings(400)
    ours = expected_calibration_error(reliability(*claims(data.truth, data.probabilities, multilabel=True)))
    theirs = binary_calibration_error(
        torch.tensor(data.probabilities).ravel(), torch.tensor(data.truth).ravel().int(), n_bins=10
    )
    assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_bins_hold_every_claim_even_at_the_ends():
    bins = reliability(np.array([0.0, 1.0, 0.55]), np.array([False, True, True]))
    assert sum(b.n for b in bins) == 3
    assert [b.observed for b in bins] == [0.0, 1.0, 1.0]
