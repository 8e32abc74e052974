"""Nested subsets by patient; the probe's curve equals scikit-learn's on the same subsets, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from med_transfer.errors import TooFewPatients
from med_transfer.labelling.curve_samples import SubsetPredictions, _learning_deviations, curve_samples
from med_transfer.labelling.label_forecast import forecast, too_few_sizes
from med_transfer.labelling.nested_subsets import geometric_sizes, nested_order, patient_strata
from med_transfer.labelling.probe_curve import CurvePlan, probe_curve, training_subsets
from med_transfer.predictions.labels import Labels

LABELS = Labels(("a", "b", "c"))
PLAN = CurvePlan(smallest=9, n_sizes=4, repeats=2, n_folds=3, seed=1)


@pytest.fixture(scope="module")
def cohort():
    rng = np.random.default_rng(0)
    patients = [f"p{number // 2:02d}" for number in range(72)]
    classes = np.repeat(rng.permutation(np.repeat([0, 1, 2], [18, 12, 6])), 2)
    features = rng.normal(size=(72, 8))
    features[:, :3] += 1.2 * np.eye(3)[classes]
    return features, np.eye(3, dtype=bool)[classes], patients


def test_subsets_are_nested_whole_patients_and_apart_from_who_is_judged(cohort):
    _, truth, patients = cohort
    subsets, names = training_subsets(truth, patients, PLAN), np.array(patients)
    assert len(subsets) == 2 * 3 * 4
    before: set[str] = set()
    for subset in subsets:
        learning, judged = set(names[subset.train]), set(names[subset.test])
        assert len(learning) == subset.n_patients
        assert not learning & judged
        assert subset.train.sum() == 2 * len(learning)  # both scans of each
        if subset.size:
            assert before < learning
        assert truth[subset.train].any(axis=0).all()
        before = learning
    for repeat in range(2):
        of_repeat = [subset.test for subset in subsets if subset.repeat == repeat and subset.size == 0]
        assert (np.sum(of_repeat, axis=0) == 1).all()


def test_every_beginning_holds_the_classes_in_their_shares(cohort):
    _, truth, patients = cohort
    strata = patient_strata(truth, patients)
    order = nested_order(strata, np.random.default_rng(3))
    assert sorted(order) == sorted(set(patients))
    for length in (6, 12, 24, 36):
        counts = np.bincount([strata[patient] for patient in order[:length]], minlength=3)
        assert np.abs(counts - length * np.array([18, 12, 6]) / 36).max() <= 1.5
    backwards = dict(reversed(strata.items()))
    assert nested_order(backwards, np.random.default_rng(3)) == order
    assert nested_order(strata, np.random.default_rng(4)) != order


def test_a_patient_of_two_findings_counts_as_the_rarer_one():
    truth = np.array([[1, 0], [1, 1], [1, 0], [0, 0]], dtype=bool)
    assert patient_strata(truth, ["p", "q", "r", "s"]) == {"p": 0, "q": 1, "r": 0, "s": 2}


def test_sizes_are_geometric_and_end_with_everyone():
    assert geometric_sizes(5, 80, 5) == (5, 10, 20, 40, 80)
    assert geometric_sizes(5, 7, 6) == (5, 6, 7)
    assert geometric_sizes(5, 5, 6) == (5,)
    with pytest.raises(TooFewPatients, match="4 patients to learn from in a fold; expected at least the smallest"):
        geometric_sizes(5, 4, 4)


def test_probe_curve_is_scikit_learns_on_the_same_subsets(cohort):
    features, truth, patients = cohort
    expected = np.zeros((2, 4, 72, 3))
    narrow = FunctionTransformer(lambda table: table / np.sqrt(8))
    for subset in training_subsets(truth, patients, PLAN):
        regression = LogisticRegression(C=10, class_weight="balanced", max_iter=5000, tol=1e-8)
        model = make_pipeline(StandardScaler(), narrow, regression)
        model.fit(features[subset.train], truth[subset.train].argmax(1))
        expected[subset.repeat, subset.size, subset.test] = model.predict_proba(features[subset.test])
    judged = probe_curve(features, truth, patients, LABELS, PLAN)
    assert judged.probabilities == pytest.approx(expected, abs=1e-3)

    own = truth.argmax(1)
    for c, curve in enumerate(curve_samples(judged, "sensitivity", 50)):
        by_hand = [
            np.mean([recall_score(own, one.argmax(1), labels=[c], average=None)[0] for one in of_size])
            for of_size in expected.swapaxes(0, 1)
        ]
        assert curve.values == pytest.approx(np.array(by_hand))
        assert curve.labelled == (18, 12, 6)[c]
        assert (np.diff(curve.patients) > 0).all()
        assert curve.draws.mean(axis=0) == pytest.approx(curve.values, abs=0.1)
    (auc,) = curve_samples(judged, "macro_auc", 50)
    by_hand = [np.mean([roc_auc_score(truth, one) for one in of_size]) for of_size in expected.swapaxes(0, 1)]
    assert auc.values == pytest.approx(np.array(by_hand), abs=1e-3)
    assert (auc.name, auc.labelled, auc.patients[0]) == ("all classes", 36, 9)


def test_sizes_with_equally_many_of_a_class_are_one_point(cohort):
    _, truth, patients = cohort
    learned = np.array([[[2, 1, 1], [2, 2, 1], [3, 2, 1]]], dtype=float)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), size=(1, 3, 72))
    judged = SubsetPredictions(learned, learned.sum(-1), probabilities, truth, tuple(patients), LABELS)
    first, _, last = curve_samples(judged, "sensitivity", 20)
    each = [recall_score(truth.argmax(1), one.argmax(1), average=None) for one in probabilities[0]]
    assert first.patients.tolist() == [2, 3]
    assert first.values == pytest.approx([(each[0][0] + each[1][0]) / 2, each[2][0]])
    assert last.values == pytest.approx([np.mean([one[2] for one in each])])


def test_a_class_that_the_smallest_subsets_lack_has_a_curve_of_the_others(cohort):
    """As a finding whose patients all have a rarer one, too."""
    _, truth, patients = cohort
    learned = np.array([[[0, 1, 2], [1, 2, 3], [2, 3, 4], [4, 6, 8], [8, 9, 9]]], dtype=float)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), size=(1, 5, 72))
    judged = SubsetPredictions(learned, learned.sum(-1), probabilities, truth, tuple(patients), LABELS)
    first = curve_samples(judged, "sensitivity", 20)[0]
    assert first.patients.tolist() == [1, 2, 4, 8]
    each = [recall_score(truth.argmax(1), one.argmax(1), average=None)[0] for one in probabilities[0]]
    assert first.values == pytest.approx(each[1:])
    assert forecast(first, 0.9).outcome != "too few points"
    assert too_few_sizes(learned[0, :, 0]) == ""
    assert too_few_sizes(learned[0, :4, 0]).startswith("3 sizes of training set")


def test_draws_hold_what_learning_from_other_patients_might_change():
    """Against Student's t with the variance of Nadeau and Bengio, who write n_test / n_train for s / (1 - s)."""
    by_repeat, share = np.random.default_rng(3).normal(size=(6, 2, 1)), np.array([0.2, 0.8])
    deviations = _learning_deviations(by_repeat, share, 40_000, 0)[:, :, 0]
    for size, nadeau_bengio in enumerate([1 / 6 + 0.2 / 0.8, 1 / 6 + 0.8 / 0.2]):
        scale = np.sqrt(nadeau_bengio * by_repeat[:, size, 0].var(ddof=1))
        expected = stats.t(df=5, scale=scale).ppf([0.025, 0.25, 0.75, 0.975])
        assert np.quantile(deviations[:, size], [0.025, 0.25, 0.75, 0.975]) == pytest.approx(expected, rel=0.06)


def test_draws_vary_with_both_who_is_judged_and_who_was_learned_from(cohort):
    """Repeats that agree leave the patients; a single repeat says nothing of learning; no draw leaves 0 to 1."""
    _, truth, patients = cohort
    of_repeat = np.random.default_rng(1).dirichlet(np.ones(3), size=(4, 3, 72))
    learned = np.tile(np.array([2.0, 4.0, 8.0])[:, None], (4, 1, 3))

    def spread(chosen: list[int]) -> float:
        judged = SubsetPredictions(learned, learned.sum(-1), of_repeat[chosen], truth, tuple(patients), LABELS)
        draws = curve_samples(judged, "sensitivity", 400)[0].draws
        assert 0 <= draws.min() <= draws.max() <= 1
        return float(draws[:, -1].std())

    assert spread([0]) == pytest.approx(spread([0, 0, 0, 0]), rel=0.01)
    assert spread([0, 1, 2, 3]) > spread([0, 0, 0, 0]) / 2


def test_findings_have_curves_too(cohort):
    features, truth, patients = cohort
    findings = Labels(("effusion", "nodule"), multilabel=True)
    judged = probe_curve(features, truth[:, :2], patients, findings, PLAN)
    names = [curve.name for curve in curve_samples(judged, "sensitivity", 30)]
    assert names == ["effusion", "nodule"]
    assert np.isfinite(judged.probabilities).all()
