"""Calibration slope and intercept against statsmodels, and cases in which they do not exist."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit
from scipy.stats import t as student
from simulated_scores import three_classes

from med_transfer.metrics.recalibration import binary_log_probability, intercept, slope

ALONE = sm.families.Binomial()


def binary(n=400, true_slope=0.6, true_intercept=0.5, scans_per_patient=1, seed=0):
    """Probabilities whose log odds are off by a known slope and intercept; a patient's scans share half of them."""
    rng = np.random.default_rng(seed)
    own = np.repeat(rng.normal(0, 1.5, n // scans_per_patient), scans_per_patient)
    odds = own + rng.normal(0, 0.5, n)
    patients = [f"p{i // scans_per_patient}" for i in range(n)]
    return expit(odds), (rng.random(n) < expit(true_slope * odds + true_intercept)).astype(int), patients


def limits(value, error):
    return value - 1.959964 * error, value + 1.959964 * error


def test_slope_and_its_interval_equal_statsmodels():
    p, truth, patients = binary()
    ours = slope(binary_log_probability(p), truth, patients)
    theirs = sm.GLM(truth, sm.add_constant(logit(p)), family=ALONE).fit()
    assert ours.value == pytest.approx(theirs.params[1], rel=1e-6)
    assert ours.ci95 == pytest.approx(limits(theirs.params[1], theirs.bse[1]), rel=1e-5)
    assert ours.method == "logistic recalibration with free intercept; Wald interval"


def test_intercept_and_its_interval_equal_statsmodels():
    p, truth, patients = binary()
    ours = intercept(binary_log_probability(p), truth, patients)
    theirs = sm.GLM(truth, np.ones((len(p), 1)), family=ALONE, offset=logit(p)).fit()
    assert ours.value == pytest.approx(theirs.params[0], rel=1e-6)
    assert ours.ci95 == pytest.approx(limits(theirs.params[0], theirs.bse[0]), rel=1e-5)


def test_with_several_scans_a_patient_the_interval_is_the_sandwich_of_statsmodels():
    p, truth, patients = binary(scans_per_patient=4)
    ours = slope(binary_log_probability(p), truth, patients)
    groups = np.unique(patients, return_inverse=True)[1]
    theirs = sm.GLM(truth, sm.add_constant(logit(p)), family=ALONE).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
    )
    half = theirs.bse[1] * (100 / 99) ** 0.5 * student.ppf(0.975, 99)
    assert ours.ci95 == pytest.approx((theirs.params[1] - half, theirs.params[1] + half), rel=1e-5)
    assert "sandwich variance over patients" in ours.method


def test_one_slope_for_three_classes_is_where_the_likelihood_is_greatest():
    data = three_classes(300)
    log_p, truth = np.log(data.probabilities), data.truth.argmax(axis=1)

    def loss(x):
        return -log_softmax(x[2] * log_p + np.r_[0, x[:2]], axis=1)[np.arange(300), truth].sum()

    theirs = minimize(loss, [0.0, 0.0, 1.0], options={"gtol": 1e-8})
    ours = slope(log_p, truth, data.patients)
    assert ours.value == pytest.approx(theirs.x[2], rel=1e-4)
    assert ours.ci95 == pytest.approx(limits(theirs.x[2], theirs.hess_inv[2, 2] ** 0.5), rel=0.02)
    assert ours.method.startswith("logistic recalibration with free intercepts, one slope for all classes; ")


def test_a_slope_below_one_tells_probabilities_that_are_too_extreme():
    odds = np.random.default_rng(3).normal(0, 1.5, 4000)
    truth = (np.random.default_rng(4).random(4000) < expit(odds)).astype(int)
    patients = [str(i) for i in range(4000)]
    for factor in (0.5, 1.0, 2.0):
        estimate = slope(binary_log_probability(expit(factor * odds)), truth, patients)
        assert estimate.ci95[0] < 1 / factor < estimate.ci95[1]
    shifted = intercept(binary_log_probability(expit(odds - 1)), truth, patients)
    assert shifted.ci95[0] < 1 < shifted.ci95[1]


def test_probabilities_that_hardly_differ_have_a_steep_slope_and_separate_nothing():
    p, truth, patients = binary()
    odds = logit(p)
    ours = slope(binary_log_probability(expit(odds / 1000)), truth, patients)
    plain = slope(binary_log_probability(p), truth, patients)
    assert ours.value == pytest.approx(1000 * plain.value, rel=1e-4)
    assert ours.ci95 == pytest.approx(tuple(1000 * limit for limit in plain.ci95), rel=1e-4)


def test_where_there_is_none_it_says_why():
    patients = list("abcdef")
    truth = np.array([0, 0, 0, 1, 1, 1])
    separate = slope(binary_log_probability(np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.9])), truth, patients)
    assert (separate.value, "probabilities do not overlap" in separate.reason) == (None, True)
    equal = slope(binary_log_probability(np.full(6, 0.4)), truth, patients)
    assert (equal.value, equal.reason) == (None, "every scan has the same probability")
    for measure in (slope, intercept):
        estimate = measure(binary_log_probability(np.linspace(0, 1, 6)), np.ones(6, dtype=int), patients)
        assert (estimate.value, "nothing but cases" in estimate.reason) == (None, True)
    missing = slope(np.log(np.full((6, 3), 1 / 3)), truth, patients)
    assert missing.reason == "a class has no evaluated scan"


def test_one_patient_does_not_make_an_intercept_certain():
    p, truth, _ = binary(12)
    estimate = intercept(binary_log_probability(p), truth, ["a"] * 12)
    assert estimate.value is not None
    assert (estimate.ci95, estimate.reason) == (None, "no interval: there are too few patients")


@pytest.mark.parametrize(
    "of_cases_and_others",
    [
        pytest.param(([1.0] * 15, [0.0] * 15), id="all right"),
        pytest.param(([0.0] * 15, [1.0] * 15), id="all wrong"),
        pytest.param(([0.9] * 15, [0.1] * 12 + [0.9] * 3), id="equal where they meet"),
        pytest.param(([1.0] * 15, [0.0] * 12 + [1.0] * 3), id="certain, and equal where they meet"),
    ],
)
def test_no_slope_is_given_where_none_fits_best(of_cases_and_others):
    """It was said that nothing was wrong, also of probabilities that were wrong for every scan."""
    p, truth = np.concatenate(of_cases_and_others), np.repeat([1, 0], 15)
    estimate = slope(binary_log_probability(p), truth, [str(i) for i in range(30)])
    assert (estimate.value, estimate.ci95) == (None, None)
    assert estimate.reason.startswith("no slope fits best: the classes' probabilities do not overlap")


@pytest.mark.parametrize("seed", [1, 3, 13])
def test_certain_and_always_wrong_probabilities_of_three_classes_have_no_slope_in_any_order(seed):
    """Rounding ended the search at -2.7 with limits of -3 and 3 million, or not, depending on the order of rows."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(20, 40))
    truth = rng.integers(0, 3, n)
    wrong = np.log(np.clip(np.eye(3)[(truth + 1) % 3], 1e-6, 1))
    for _ in range(10):
        rows, classes = rng.permutation(n), rng.permutation(3)
        estimate = slope(wrong[rows][:, np.argsort(classes)], classes[truth[rows]], [str(i) for i in range(n)])
        assert (estimate.value, estimate.ci95) == (None, None)


@pytest.mark.parametrize("scans_per_patient", [1, 5])
def test_certain_probabilities_leave_the_intercept_without_an_interval(scans_per_patient):
    """Its limits were -358 and 358, in log odds."""
    truth = np.repeat([0, 1], 15)
    patients = [str(i // scans_per_patient) for i in range(30)]
    flipped = np.where(np.arange(30) % 15 == 0, 1 - truth, truth)
    for p in (truth, flipped):
        estimate = intercept(binary_log_probability(p.astype(float)), truth, patients)
        assert estimate.value == pytest.approx(0, abs=1e-3)
        assert estimate.ci95 is None
        assert "nearly every probability is 0 or 1" in estimate.reason


def test_the_interval_of_four_patients_holds_the_intercept_of_many():
    """Nominal 95 %; of 200 samples at least 92 % (two standard errors), where it was 86 %."""

    def cohort(n_patients, rng):
        own, odds = np.repeat(rng.normal(size=n_patients), 10), rng.normal(0, 1.5, 10 * n_patients)
        patients = np.repeat([f"p{n}" for n in range(n_patients)], 10).tolist()
        return expit(odds), (rng.random(len(odds)) < expit(odds + own)).astype(int), patients

    def measured(n_patients, seed):
        p, truth, patients = cohort(n_patients, np.random.default_rng(seed))
        return intercept(binary_log_probability(p), truth, patients)

    true_value = measured(4000, 0).value
    intervals = [measured(4, seed).ci95 for seed in range(1, 201)]
    assert np.mean([low <= true_value <= high for low, high in intervals]) >= 0.92
