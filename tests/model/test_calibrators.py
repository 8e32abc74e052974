"""Calibration on validation scans: each method against an independent reference, and when each is chosen."""

import logging

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from med_transfer.model.calibration import calibrate
from med_transfer.model.calibration.calibrate import cross_fitted
from med_transfer.model.calibration.calibrators import log_odds
from med_transfer.model.calibration.fitting import fit, smoothed
from med_transfer.predictions.labels import Labels

THREE, FINDINGS = Labels(("a", "b", "c")), Labels(("a", "b", "c"), multilabel=True)


def classes(n: int, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Logits whose softmax is honest, and truth."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=(n, 3)) * 1.5
    return honest, np.eye(3, dtype=bool)[[rng.choice(3, p=p) for p in softmax(honest, axis=1)]]


def several(n: int, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Logits whose sigmoid is honest, and truth."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=(n, 3)) * 1.5
    return honest, rng.random((n, 3)) < expit(honest)


def people(n: int, scans: int = 1) -> list[str]:
    return [f"p{row // scans}" for row in range(n)]


def probabilities(calibrator, logits: NDArray, *, multilabel: bool = False) -> NDArray:
    return calibrator.probabilities(logits, multilabel=multilabel)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(temperature):
    honest, truth = classes(6000)
    found = fit("temperature", honest * temperature, truth, multilabel=False)
    assert found.temperature == pytest.approx(temperature, rel=0.06)
    assert found.bias == pytest.approx([0, 0, 0], abs=0.1)


def test_the_temperature_of_findings_is_found():
    honest, truth = several(4000)
    assert fit("temperature", honest * 2, truth, multilabel=True).temperature == pytest.approx(2, rel=0.06)


def test_a_network_that_is_always_right_is_not_made_infinitely_sure():
    truth = np.eye(3, dtype=bool)[[0, 1, 2] * 10]
    logits = truth * 4.0
    found = fit("temperature", logits, truth, multilabel=False)
    assert 0.96 < softmax(logits, axis=1).max() < probabilities(found, logits).max() < 0.995


@pytest.mark.parametrize("multilabel", [False, True], ids=["classes", "findings"])
def test_the_temperature_and_its_bias_are_those_of_a_general_optimiser(multilabel):
    honest, truth = several(40) if multilabel else classes(40)
    logits, prior = honest * 2, np.array([-1.0, 0.5, 0.2])
    found = fit("temperature", logits, truth, prior, multilabel=multilabel)

    def loss(p: NDArray) -> float:
        scaled = logits / np.exp(p[0]) + prior + p[1:]
        likelihood = np.where(truth, expit(scaled), expit(-scaled)) if multilabel else softmax(scaled, axis=1)[truth]
        return -np.log(likelihood).sum() + (p[0] / 0.5) ** 2 / 2 + ((p[1:] / 0.7) ** 2).sum() / 2

    theirs = minimize(loss, np.zeros(4), method="Nelder-Mead", options={"maxiter": 9000, "xatol": 1e-7, "fatol": 1e-9})
    assert np.log(found.temperature) == pytest.approx(theirs["x"][0], abs=1e-3)
    assert np.array(found.bias) - prior == pytest.approx(theirs["x"][1:], abs=1e-3)


def test_vector_scaling_of_findings_is_scikit_learns_logistic_regression():
    """Each smoothed truth is a weighted case and a weighted other scan."""
    honest, truth = several(500)
    logits = honest * [0.5, 2.0, 1.0] + [1.0, 0.0, -1.0]
    found, target = fit("vector", logits, truth, multilabel=True), smoothed(truth, multilabel=True)
    for c in range(3):
        twice = np.tile(logits[:, [c]], (2, 1))
        weights = np.concatenate([target[:, c], 1 - target[:, c]])
        theirs = LogisticRegression(C=1e8, tol=1e-8).fit(twice, np.repeat([1, 0], 500), weights)
        assert found.scale[c] == pytest.approx(theirs.coef_[0, 0], rel=1e-2)
        assert found.bias[c] == pytest.approx(theirs.intercept_[0], abs=1e-2)


def test_vector_scaling_of_classes_fits_as_well_as_a_general_optimiser():
    honest, truth = classes(400)
    logits = honest * [0.5, 2.0, 1.0] + [1.0, 0.0, -1.0]
    found, target = fit("vector", logits, truth, multilabel=False), smoothed(truth, multilabel=False)

    def loss(p: NDArray) -> float:
        return -(target * np.log(softmax(logits * p[:3] + p[3:], axis=1))).sum()

    theirs = minimize(
        loss, [1, 1, 1, 0, 0, 0], method="Nelder-Mead", options={"maxiter": 9000, "maxfev": 9000, "adaptive": True}
    )
    assert loss(np.array([*found.scale, *found.bias])) == pytest.approx(theirs["fun"], abs=0.01)
    assert sum(found.bias) == pytest.approx(0, abs=1e-9)
    assert min(found.scale) >= 0


def test_isotonic_of_findings_is_scikit_learns_between_the_smoothed_ends():
    logits, truth = several(300)
    found = probabilities(
        fit("isotonic", logits, truth, multilabel=True), new := several(200, seed=1)[0], multilabel=True
    )
    for c in range(3):
        theirs = IsotonicRegression(out_of_bounds="clip").fit(logits[:, c], truth[:, c])
        cases, others = truth[:, c].sum(), (~truth[:, c]).sum()
        low, high = 1 / (others + 2), (cases + 1) / (cases + 2)
        np.testing.assert_allclose(found[:, c], low + (high - low) * theirs.predict(new[:, c]), atol=1e-9)


def test_isotonic_of_classes_is_one_against_the_rest_and_sums_to_one():
    logits, truth = classes(300)
    calibrator, new = fit("isotonic", logits, truth, multilabel=False), classes(200, seed=1)[0]
    against_rest, of_new = (logit(softmax(x, axis=1)) for x in (logits, new))
    each = [
        IsotonicRegression(out_of_bounds="clip")
        .fit(against_rest[:, c], smoothed_ends(truth[:, c]))
        .predict(of_new[:, c])
        for c in range(3)
    ]
    expected = np.stack(each, axis=1) / np.sum(each, axis=0)[:, None]
    np.testing.assert_allclose(probabilities(calibrator, new), expected, atol=1e-9)


def smoothed_ends(has: NDArray) -> NDArray:
    return np.where(has, (has.sum() + 1) / (has.sum() + 2), 1 / ((~has).sum() + 2))


def test_log_odds_do_not_saturate_where_probabilities_do():
    odds = log_odds(np.array([[200.0, 0.0, -300.0]]), multilabel=False)[0]
    assert odds.tolist() == pytest.approx([200, -200, -500])
    honest = classes(20)[0]
    np.testing.assert_allclose(log_odds(honest, multilabel=False), logit(softmax(honest, axis=1)))


@pytest.mark.parametrize("method", ["none", "temperature", "vector", "isotonic"])
@pytest.mark.parametrize("labels", [THREE, FINDINGS], ids=["classes", "findings"])
def test_no_method_makes_anything_certain_or_undefined(method, labels):
    """Also where the network is right on every validation scan, and on scans far beyond them."""
    truth = np.eye(3, dtype=bool)[[0, 1, 2] * 30]
    calibrator = fit(method, truth * 8.0 - 4, truth, multilabel=labels.multilabel)
    found = probabilities(calibrator, np.array([[30.0, -30, 0], [0, 0, 0]]), multilabel=labels.multilabel)
    assert np.isfinite(found).all()
    if not labels.multilabel:
        np.testing.assert_allclose(found.sum(axis=1), 1)
    on_validation = probabilities(calibrator, truth * 8.0 - 4, multilabel=labels.multilabel)
    assert 0 < on_validation.min() < on_validation.max() < 1


@pytest.mark.parametrize("method", ["temperature", "vector", "isotonic"])
def test_every_method_mends_what_it_can(method):
    """On new scans of an over-sure network the log loss comes near that of the honest probabilities."""
    honest, truth = classes(1500)
    calibrator = fit(method, honest * 3, truth, multilabel=False)
    new, new_truth = classes(3000, seed=1)
    losses = [
        log_loss(new_truth, p)
        for p in (softmax(new * 3, axis=1), probabilities(calibrator, new * 3), softmax(new, axis=1))
    ]
    assert losses[1] - losses[2] < 0.1 * (losses[0] - losses[2])


def test_out_of_fold_probabilities_know_nothing_of_their_own_patient():
    """Of truth without meaning a calibration learns something by heart; out of fold that is worth nothing."""
    logits, _ = classes(150)
    truth = np.eye(3, dtype=bool)[np.random.default_rng(5).permutation(np.repeat([0, 1, 2], 50))]
    by_heart = probabilities(fit("isotonic", logits, truth, multilabel=False), logits)
    out_of_fold = cross_fitted("isotonic", logits, truth, people(150), multilabel=False)
    assert log_loss(truth, by_heart) < np.log(3) < log_loss(truth, out_of_fold)


@pytest.mark.parametrize(
    ("bend", "expected"),
    [
        (lambda honest: honest, "none"),
        (lambda honest: honest * 4, "temperature"),
        (lambda honest: honest * np.array([3.0, 1.0, 0.3]), "vector"),
        (lambda honest: np.where(honest > 0, honest + 4, honest * 0.2), "isotonic"),
    ],
)
def test_auto_takes_the_simplest_that_mends_the_bend(bend, expected):
    honest, truth = several(800) if expected == "isotonic" else classes(800)
    labels = FINDINGS if expected == "isotonic" else THREE
    found = calibrate(bend(honest), truth, people(800), labels, "auto").calibrator
    assert found.method == expected
    assert "simplest within one standard error of the least cross-validated log loss (none " in found.note


def test_too_few_patients_fall_back_to_a_temperature_and_say_so(caplog):
    logits, truth = classes(90)
    with caplog.at_level(logging.WARNING):
        found = calibrate(logits, truth, people(90, 3), THREE, "isotonic").calibrator
    assert found.method == "temperature"
    assert "temperature instead of isotonic: " in found.note
    assert "validation patients of class 'a', 30 are needed" in found.note
    assert found.note in caplog.text
    assert "isotonic" not in calibrate(logits, truth, people(90, 3), THREE, "auto").calibrator.note


def test_findings_need_patients_without_them_too():
    logits, truth = several(100)
    truth[:, 1] = np.arange(100) > 4
    found = calibrate(logits, truth, people(100), FINDINGS, "vector").calibrator
    assert "5 validation patients of class 'no b', 10 are needed" in found.note


@pytest.mark.parametrize("n", [6, 9])
def test_a_handful_of_scans_leaves_the_probabilities_near_the_networks_own(n, caplog):
    """Scans that the network cannot tell apart, of whom a temperature alone says that nothing can be told."""
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(size=(n, 3)) * 3, np.eye(3, dtype=bool)[np.arange(n) % 3]
    wrong = np.where(truth, logits - 2, logits)
    with caplog.at_level(logging.WARNING):
        found = calibrate(wrong, truth, people(n), THREE, "temperature").calibrator
    assert 1 < found.temperature < 5  # 20 before, the end of the range
    assert found.n_patients == dict.fromkeys("abc", n // 3)
    assert f"shrunk towards no scaling: fewer than 10 validation patients of a ({n // 3}), b ({n // 3})" in found.note
    assert found.note in caplog.text
    logits, truth = classes(90)
    assert calibrate(logits, truth, people(90), THREE, "temperature").calibrator.note == ""


def test_one_patient_or_a_class_without_a_scan_is_still_calibrated():
    logits, _ = classes(6)
    found = calibrate(logits, np.eye(3, dtype=bool)[[0, 1] * 3], ["p"] * 6, THREE, "temperature")
    assert np.isfinite(found.probabilities).all()
