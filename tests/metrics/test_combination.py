"""Intervals of balanced accuracy and macro AUC keep their coverage with few cases; the gain's verdict its 5 %."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import norm, t

from med_transfer.metrics.binomial import clopper_pearson, newcombe_paired, wilson
from med_transfer.metrics.combination import Parts, rate_parts
from med_transfer.metrics.comparison import paired_difference
from med_transfer.metrics.delong import auc_difference_interval, delong
from med_transfer.metrics.intervals import PatientBootstrap
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.measures import balanced_accuracy, macro_auc
from med_transfer.metrics.transfer_gain import transfer_gain
from med_transfer.predictions.labels import Labels

THREE = Labels(("a", "b", "c"))


def scored(counts, separation: float, seed: int, scans: int = 1, models: int = 1) -> list[LabelledPredictions]:
    """Normal scores; scans of a patient correlate with 0.7, models with 0.5."""
    random, n_classes = np.random.default_rng([seed, *counts, scans]), len(counts)
    of_patient = np.repeat(np.arange(n_classes), counts)
    truth = np.eye(n_classes, dtype=bool)[np.repeat(of_patient, scans)]
    patients = [f"p{n:04d}" for n in np.repeat(np.arange(len(of_patient)), scans)]

    def noise() -> np.ndarray:
        shared = np.repeat(random.normal(size=(len(of_patient), n_classes)), scans, axis=0)
        return np.sqrt(0.7) * shared + np.sqrt(0.3) * random.normal(size=truth.shape)

    base = noise()
    scores = [separation * truth + (np.sqrt(0.5) * base + np.sqrt(0.5) * noise()) for _ in range(models)]
    labels = Labels(tuple("abc"[:n_classes]))
    return [LabelledPredictions.of(truth, softmax(score, axis=1), patients, labels) for score in scores]


@pytest.mark.parametrize(("counts", "scans"), [((4, 4, 40), 1), ((8, 8, 8), 3)])
@pytest.mark.parametrize("separation", [1.5, 3.0])
def test_intervals_hold_with_few_cases_of_a_class(counts, scans, separation):
    """Nominal 95 %; of 100 samples at least 91 % (two standard errors), where percentiles held 78 to 93 %."""
    truth = [float(np.mean([m.value for m in made])) for made in _large(counts, separation)]
    held = np.zeros(2)
    for seed in range(100):
        (predictions,) = scored(counts, separation, seed, scans)
        for number, estimate in enumerate((balanced_accuracy(predictions), macro_auc(predictions))):
            held[number] += estimate.ci95[0] <= truth[number] <= estimate.ci95[1]
    assert (held >= 91).all()


def _large(counts, separation):
    sets = [scored(tuple(50 * n for n in counts), separation, seed)[0] for seed in range(4)]
    return [balanced_accuracy(one) for one in sets], [macro_auc(one) for one in sets]


@pytest.mark.parametrize(("counts", "scans"), [((5, 5, 5), 1), ((5, 6, 30), 2)])
def test_equal_networks_are_seldom_told_apart(counts, scans):
    """Over both looks together at most 5 %; of 100 samples at most 9 % (two standard errors), where it was 15 %."""
    verdicts = []
    for seed in range(100):
        first, second = scored(counts, 1.0, seed, scans, models=2)
        verdicts.append(transfer_gain(first, second.probabilities, n_boot=100).verdict)
    assert np.mean(np.array(verdicts) != "none") <= 0.09


def test_one_rate_alone_has_its_own_interval_and_two_are_wider_than_their_mean_error():
    (predictions,) = scored((10, 14), 1.0, 0)
    parts = rate_parts(predictions, clopper_pearson)
    hits = int((predictions.predicted & predictions.truth)[:, 0].sum())
    assert parts.combined(np.array([1.0, 0.0])) == pytest.approx(clopper_pearson(hits, 10))


def test_a_difference_of_two_rates_is_newcombes_for_pairs_without_continuity_correction():
    """Method 8 of Newcombe 1998 by hand, from the cells of a table with a negative correlation, where it needs none."""
    both, only_first, only_second, neither = 20, 12, 9, 2
    right = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [both, only_first, only_second, neither], axis=0)
    n, rates = len(right), right.mean(axis=0)
    limits = np.array([wilson(hits, n) for hits in right.sum(axis=0)])
    parts = Parts(rates, limits, (right - rates) / n, np.ones((n, 2), dtype=bool))
    assert parts.combined(np.array([1.0, -1.0])) == pytest.approx(
        newcombe_paired(both, only_first, only_second, neither)
    )


def test_repeated_scans_count_once_and_independent_ones_fully():
    (once,) = scored((8, 9, 10), 1.0, 3)
    often = LabelledPredictions.of(
        *(np.repeat(array, 3, axis=0) for array in (once.truth, once.probabilities)), np.repeat(once.patients, 3), THREE
    )
    width_once, width_often = (np.ptp(balanced_accuracy(one).ci95) for one in (once, often))
    assert width_once <= width_often < 1.3 * width_once  # a design effect from few patients is itself uncertain
    many = LabelledPredictions.of(often.truth, often.probabilities, [f"q{n}" for n in range(len(often))], THREE)
    assert np.ptp(balanced_accuracy(many).ci95) < 0.75 * width_once
    assert macro_auc(often).ci95 == pytest.approx(macro_auc(once).ci95)


def test_delongs_interval_is_that_of_its_variance_and_of_students_t():
    first, second = scored((40, 50), 1.0, 0, models=2)
    low, high = auc_difference_interval(
        first.truth, first.probabilities, second.probabilities, first.patients, multilabel=False
    )
    difference = delong(first.truth, first.probabilities, second.probabilities, multilabel=False)
    assert (low + high) / 2 == pytest.approx(difference.value)
    assert (high - low) / 2 == pytest.approx(norm.ppf(0.975) * np.sqrt(difference.variance), rel=0.05)
    assert (high - low) / 2 > norm.ppf(0.975) * np.sqrt(difference.variance)


def test_one_patient_of_a_class_gives_no_interval_of_the_difference():
    first, second = scored((1, 20), 1.0, 0, models=2)
    difference = paired_difference(first, second, PatientBootstrap(first.patients, 100))
    assert difference.macro_auc.ci95 is None
    assert "too few patients" in difference.macro_auc.reason
    assert difference.balanced_accuracy.ci95 is not None


def test_scans_of_a_patient_count_as_many_as_korn_and_graubard_say():
    """1998, Surv Methodol 24:193: n* = p (1 - p) / var(p), times the squared ratio of Student's quantiles."""
    hits_of_patients = np.array([3, 3, 0, 2, 3, 0, 3, 1])  # of three scans each
    right = (np.arange(3) < hits_of_patients[:, None]).ravel()
    truth = np.eye(2, dtype=bool)[np.r_[np.zeros(24, int), np.ones(8, int)]]
    called = np.where(np.r_[right, np.ones(8, bool)][:, None], truth, ~truth)
    patients = [f"a{n // 3}" for n in range(24)] + [f"b{n}" for n in range(8)]
    predictions = LabelledPredictions.of(truth, called.astype(float), patients, Labels(("a", "b")))
    trials = rate_parts(predictions, lambda hits, trials: (hits, trials)).limits
    rate = hits_of_patients.sum() / 24
    variance = 8 / 7 * ((hits_of_patients - 3 * rate) ** 2).sum() / 24**2
    effective = rate * (1 - rate) / variance * (t.ppf(0.975, 23) / t.ppf(0.975, 7)) ** 2
    assert trials[0] == pytest.approx((rate * effective, effective))
    assert trials[1] == pytest.approx((8, 8))  # one scan each


@pytest.mark.parametrize("errors", [(0.2, -0.2), (0.2, 0.0, -0.2), (0.2, 0.2, -0.2, -0.2)])
def test_very_few_patients_do_not_cancel_each_other(errors):
    """Of two any correlation is 1 or -1, of three or four often, and the limits of two rates took each other away."""
    limits = np.array([[0.1, 0.9], [0.1, 0.9]])
    few = Parts(np.array([0.5, 0.5]), limits, np.outer(errors, [1, -1]), np.ones((len(errors), 2), dtype=bool))
    low, high = few.combined(np.array([0.5, 0.5]))
    assert high - low == pytest.approx(0.8)  # as of a single rate: both are of the same patients


def with_every_class(right_patients, n_classes: int) -> LabelledPredictions:
    """One scan of each class a patient; all of a patient's scans are called right, or none."""
    truth = np.tile(np.eye(n_classes, dtype=bool), (len(right_patients), 1))
    right = np.repeat(right_patients, n_classes)[:, None]
    patients = np.repeat([f"p{n}" for n in range(len(right_patients))], n_classes)
    called = np.where(right, truth, np.roll(truth, 1, axis=1)).astype(float)
    return LabelledPredictions.of(truth, called, patients, Labels(tuple("abcd"[:n_classes])))


@pytest.mark.parametrize("n_patients", [2, 8])
def test_patients_without_an_error_in_several_classes_count_once(n_patients):
    """Eight patients called right in two classes each are eight observations; the interval was that of sixteen."""
    interval = balanced_accuracy(with_every_class([True] * n_patients, 2)).ci95
    assert interval == pytest.approx(clopper_pearson(n_patients, n_patients))
    several, one_each = with_every_class([True] * n_patients, 2), scored((n_patients, n_patients), 50.0, 0)[0]
    assert np.ptp(balanced_accuracy(one_each).ci95) < np.ptp(balanced_accuracy(several).ci95)


def test_the_interval_holds_where_a_patient_is_called_alike_in_every_class():
    """Nominal 95 %; of 200 samples at least 92 % (two standard errors), where it was 85 %."""
    random, true_rate = np.random.default_rng(0), 0.785
    intervals = [balanced_accuracy(with_every_class(random.random(8) < true_rate, 3)).ci95 for _ in range(200)]
    assert np.mean([low <= true_rate <= high for low, high in intervals]) >= 0.92


@pytest.mark.parametrize("n_classes", [2, 3, 6])
def test_one_patient_of_each_class_shows_neither_gain_nor_harm(n_classes):
    """Of two patients, both right with one network and wrong with the other, it was said that transfer harms."""
    truth = np.eye(n_classes, dtype=bool)
    labels = Labels(tuple("abcdef"[:n_classes]))
    right = LabelledPredictions.of(truth, truth.astype(float), list(labels.names), labels)
    wrong = np.roll(truth, 1, axis=1).astype(float)
    assert transfer_gain(right, wrong, n_boot=100).verdict == "none"
    assert transfer_gain(right.scored_by(wrong), right.probabilities, n_boot=100).verdict == "none"


@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_one_patient_shows_neither_gain_nor_harm(n_classes):
    right, wrong = (with_every_class([all_right], n_classes) for all_right in (True, False))
    assert transfer_gain(right, wrong, n_boot=100).verdict == "none"
    assert transfer_gain(wrong, right, n_boot=100).verdict == "none"
