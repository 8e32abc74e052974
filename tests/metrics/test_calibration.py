import numpy as np
import pytest
import torch
from scipy.special import expit
from simulated_scores import Simulated, findings, three_classes
from sklearn.metrics import brier_score_loss
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from med_transfer.metrics.calibration import (
    brier_by_scan,
    brier_decomposition,
    calibration,
    calibration_error_interval,
    claims,
    expected_calibration_error,
    reliability,
)
from med_transfer.metrics.intervals import PatientBootstrap
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.calibration import Calibration
from med_transfer.predictions.labels import Labels


def predictions_of(data):
    return LabelledPredictions.of(data.truth, data.probabilities, data.patients, data.labels)


def test_brier_equals_scikit_learn():
    data = three_classes()
    ours = brier_by_scan(data.truth, data.probabilities, multilabel=False).mean()
    theirs = brier_score_loss(data.truth.argmax(axis=1), data.probabilities, labels=[0, 1, 2], scale_by_half=True)
    assert ours == pytest.approx(theirs)


def test_brier_of_findings_is_the_mean_of_the_binary_scores():
    data = findings()
    each = [brier_score_loss(data.truth[:, c], data.probabilities[:, c]) for c in range(3)]
    assert brier_by_scan(data.truth, data.probabilities, multilabel=True).mean() == pytest.approx(np.mean(each))


def test_interval_of_a_class_s_brier_score_is_that_of_its_mean_over_patients():
    """With a scan a patient the bootstrap's percentiles are near the normal interval of a mean."""
    rng = np.random.default_rng(2)
    probabilities = rng.dirichlet([1, 1, 1], 300)
    truth = np.array([rng.multinomial(1, row) for row in probabilities], bool)
    labels = Labels(("a", "b", "c"))
    predictions = LabelledPredictions.of(truth, probabilities, [f"p{i:03d}" for i in range(300)], labels)
    measured = calibration(predictions, PatientBootstrap(predictions.patients, 2000))
    for c, name in enumerate(labels.names):
        squared = (probabilities[:, c] - truth[:, c]) ** 2
        half = 1.96 * squared.std(ddof=1) / np.sqrt(300)
        brier = measured.classes[name].brier
        assert brier.value == pytest.approx(squared.mean())
        assert brier.ci95 == pytest.approx((squared.mean() - half, squared.mean() + half), abs=0.1 * half)


def test_where_every_draw_agrees_a_score_has_no_interval_and_says_why():
    """Right for certain of every scan: no resample differs, which shows nothing of the next sample."""
    truth = np.arange(20)[:, None] % 2 == [0, 1]
    predictions = LabelledPredictions.of(truth, truth.astype(float), [f"p{n}" for n in range(20)], Labels(("a", "b")))
    measured = calibration(predictions, PatientBootstrap(predictions.patients, 200))
    for brier in (measured.brier, measured.classes["a"].brier):
        assert (brier.value, brier.ci95) == (0.0, None)
        assert brier.reason == "no interval: every bootstrap draw agrees"
    assert (measured.ece.value, measured.ece.ci95) == (0.0, None)


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


def test_of_rounded_probabilities_the_three_parts_of_murphy_make_up_the_score():
    """Claims of one value each: nothing is left over within bins, and the parts are sums over those values."""
    rng = np.random.default_rng(0)
    claimed = rng.integers(1, 11, 500) / 10 - 0.05
    came_true = rng.random(500) < claimed**2
    parts = brier_decomposition(claimed, came_true)
    groups = [came_true[claimed == value] for value in np.unique(claimed)]
    assert parts.resolution == pytest.approx(sum(len(g) * (g.mean() - came_true.mean()) ** 2 for g in groups) / 500)
    assert parts.uncertainty == pytest.approx(came_true.var())
    assert parts.within_bins == pytest.approx(0, abs=1e-12)
    score = parts.reliability - parts.resolution + parts.uncertainty
    assert score == pytest.approx(brier_score_loss(came_true, claimed))


@pytest.mark.parametrize("make", [three_classes, findings])
def test_parts_over_all_classes_add_up_to_the_score(make):
    data = make(300)
    multilabel = data.labels.multilabel
    calibrated = calibration(predictions_of(data), PatientBootstrap(data.patients, 50))
    parts = calibrated.decomposition
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within_bins
    assert total == pytest.approx(brier_by_scan(data.truth, data.probabilities, multilabel=multilabel).mean())
    assert total == pytest.approx(calibrated.brier.value)
    assert 0 <= parts.resolution <= parts.uncertainty
    for c, name in enumerate(data.labels.names):
        own = calibrated.classes[name]
        assert own.brier.value == pytest.approx(brier_score_loss(data.truth[:, c], data.probabilities[:, c]))
        assert own.decomposition.uncertainty == pytest.approx(data.truth[:, c].var())
        theirs = binary_calibration_error(
            torch.tensor(data.probabilities[:, c]), torch.tensor(data.truth[:, c]).int(), n_bins=10
        )
        assert own.ece.value == pytest.approx(float(theirs), abs=1e-6)
    assert (calibrated.intercept is None) != multilabel


def test_of_two_classes_the_overall_slope_is_that_of_each():
    rng = np.random.default_rng(2)
    p = rng.uniform(0.05, 0.95, 200)
    truth = rng.random(200) < p
    data = Simulated(np.c_[~truth, truth], np.c_[1 - p, p], [str(i) for i in range(200)], Labels(("no", "yes")))
    calibrated = calibration(predictions_of(data), PatientBootstrap(data.patients, 50))
    for own in calibrated.classes.values():
        assert own.slope.value == pytest.approx(calibrated.slope.value, rel=1e-6)
    assert calibrated.classes["no"].intercept.value == pytest.approx(-calibrated.classes["yes"].intercept.value)


def calls_of(rng, n, true_slope):
    odds = rng.normal(0, 1.5, n)
    return expit(odds), rng.random(n) < expit(true_slope * odds)


@pytest.mark.parametrize("true_slope", [1.0, 0.6])
def test_the_interval_of_the_calibration_error_holds_the_error_of_many_scans(true_slope):
    """Percentiles of the draws would hold it in less than half of these samples; see benchmarks."""
    rng = np.random.default_rng(1)
    many = expected_calibration_error(reliability(*calls_of(rng, 400_000, true_slope))) if true_slope != 1 else 0.0
    patients = [f"p{i:03d}" for i in range(200)]
    held = 0
    for sample in range(200):
        low, high = calibration_error_interval(*calls_of(rng, 200, true_slope), PatientBootstrap(patients, 300, sample))
        held += low <= many <= high
    assert held >= 182  # 95 % minus 2.6 standard errors


@pytest.mark.parametrize(("true_slope", "least"), [(1.0, 0.0), (-0.5, 0.05)])
def test_the_interval_of_the_calibration_error_starts_at_0_unless_claims_are_clearly_wrong(true_slope, least):
    patients = PatientBootstrap([f"p{i:03d}" for i in range(200)], 300)
    low, _ = calibration_error_interval(*calls_of(np.random.default_rng(4), 200, true_slope), patients)
    assert low == 0 if least == 0 else low > least


def test_scans_of_a_patient_count_once_in_the_interval_of_the_calibration_error():
    claimed, came_true = calls_of(np.random.default_rng(5), 100, 0.3)
    once = calibration_error_interval(claimed, came_true, PatientBootstrap([f"{i:03d}" for i in range(100)], 500))
    copied = [f"{i // 4:03d}" for i in range(400)]
    copies = (np.repeat(claimed, 4), np.repeat(came_true, 4))
    assert calibration_error_interval(*copies, PatientBootstrap(copied, 500)) == pytest.approx(once)


def test_metrics_from_before_the_parts_are_still_read():
    data = three_classes()
    content = calibration(predictions_of(data), PatientBootstrap(data.patients, 50)).model_dump()
    for name in ("decomposition", "slope", "intercept", "classes"):
        content.pop(name)
    assert Calibration.model_validate(content).classes == {}
