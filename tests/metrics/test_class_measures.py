"""The measures of each class as in metrics.json: their values, their intervals, and the results for bad input."""

import numpy as np
import pytest
from simulated_scores import THREE, findings, three_classes
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from med_transfer.errors import UsageError
from med_transfer.metrics.binomial import clopper_pearson, wilson
from med_transfer.metrics.class_auc import class_auc, partial_auc
from med_transfer.metrics.class_rates import sensitivities
from med_transfer.metrics.comparison import paired_difference
from med_transfer.metrics.compute_metrics import compute_metrics
from med_transfer.metrics.config import EvaluationConfig
from med_transfer.metrics.intervals import PatientBootstrap, bca_interval
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.measures import balanced_accuracy
from med_transfer.metrics.records.metrics import Bootstrap
from med_transfer.predictions.labels import Labels

EXTRA = ("f1", "lr_positive", "lr_negative", "average_precision", "partial_auc")


def assess(data, *, operating_point=None, seed=0, **options):
    predictions = LabelledPredictions.of(data.truth, data.probabilities, data.patients, data.labels, operating_point)
    return compute_metrics(predictions, resampling=Bootstrap(n_boot=200, seed=seed), **options)


@pytest.mark.parametrize("simulate", [three_classes, findings])
def test_values_equal_scikit_learn_and_lie_in_their_intervals(simulate):
    data = simulate()
    metrics = assess(data)
    predicted = data.probabilities >= 0.5
    if not data.labels.multilabel:
        predicted = np.eye(3, dtype=bool)[data.probabilities.argmax(axis=1)]
    for c, name in enumerate(data.labels.names):
        class_metrics, truth, score = metrics.classes[name], data.truth[:, c], data.probabilities[:, c]
        assert class_metrics.f1.value == pytest.approx(f1_score(truth, predicted[:, c]))
        assert class_metrics.average_precision.value == pytest.approx(average_precision_score(truth, score))
        assert class_metrics.partial_auc.value == pytest.approx(roc_auc_score(truth, score, max_fpr=0.2))
        sensitivity, specificity = class_metrics.sensitivity.value, class_metrics.specificity.value
        assert class_metrics.lr_positive.value == pytest.approx(sensitivity / (1 - specificity))
        assert class_metrics.lr_negative.value == pytest.approx((1 - sensitivity) / specificity)
        for measure in EXTRA:
            estimate = getattr(class_metrics, measure)
            assert estimate.ci95[0] < estimate.value < estimate.ci95[1]
            assert estimate.ci95_cluster is None
    micro = roc_auc_score(data.truth, data.probabilities, average="micro")
    macro = average_precision_score(data.truth, data.probabilities, average="macro")
    assert metrics.micro_auc.value == pytest.approx(micro)
    assert metrics.macro_average_precision.value == pytest.approx(macro)


@pytest.mark.parametrize("method", ["clopper-pearson", "jeffreys"])
def test_the_interval_of_rates_can_be_chosen(method):
    class_metrics = assess(three_classes(), config=EvaluationConfig(interval=method)).classes["benign"]
    theirs = {"clopper-pearson": "beta", "jeffreys": "jeffreys"}[method]
    expected = proportion_confint(class_metrics.counts.true_positive, class_metrics.n, method=theirs)
    assert class_metrics.sensitivity.ci95 == pytest.approx(expected)
    assert method.split("-")[0] in class_metrics.sensitivity.method.lower()


def test_f1_is_resampled_over_patients():
    data = three_classes(60, scans_per_patient=2)
    estimate = assess(data, seed=4).classes["healthy"].f1
    predicted = data.probabilities.argmax(axis=1) == 0

    def statistic(weights):
        return np.array([f1_score(data.truth[:, 0], predicted, sample_weight=row) for row in weights])

    bootstrap = PatientBootstrap(data.patients, 200, 4)
    expected = bca_interval(estimate.value, bootstrap.distribution(statistic), bootstrap.jackknife(statistic))
    assert estimate.ci95 == pytest.approx(expected)
    assert estimate.method == "F1; BCa bootstrap over patients (200 draws, seed 4)"


def test_patients_with_several_scans_get_a_second_interval():
    data = three_classes(scans_per_patient=3)
    class_metrics = assess(data, config=EvaluationConfig(prevalence={"benign": 0.1})).classes["benign"]
    beside = (
        class_metrics.sensitivity,
        class_metrics.specificity,
        class_metrics.lr_positive,
        class_metrics.lr_negative,
        class_metrics.at_prevalence.ppv,
    )
    for estimate in beside:
        assert estimate.ci95_cluster[0] < estimate.value < estimate.ci95_cluster[1]
        how = "Korn-Graubard over patients" if estimate.method.startswith("Wilson") else "BCa bootstrap over patients"
        assert how in estimate.method
    assert "Obuchowski's variance over patients" in class_metrics.auc.method
    assert class_metrics.auc.ci95_cluster is None


def test_predictive_values_are_given_where_a_prevalence_is_stated_and_only_there():
    config = EvaluationConfig(prevalence={"malignant": 0.02})
    classes = assess(three_classes(), config=config).classes
    stated = classes["malignant"].at_prevalence
    assert stated.prevalence == 0.02
    assert stated.ppv.value < classes["malignant"].ppv.value
    assert stated.npv.value > classes["malignant"].npv.value
    assert classes["benign"].at_prevalence is None
    with pytest.raises(UsageError, match="prevalence: maligant is no class; expected one of healthy, benign"):
        assess(three_classes(), config=EvaluationConfig(prevalence={"maligant": 0.1}))
    unknown = [f"class-{number}" for number in range(9)]
    with pytest.raises(UsageError, match=f"prevalence: {', '.join(unknown)} is no class"):
        assess(three_classes(), config=EvaluationConfig(prevalence=dict.fromkeys(reversed(unknown), 0.1)))


def test_what_the_sample_can_show_is_stated_by_patient():
    metrics = assess(three_classes(scans_per_patient=3), config=EvaluationConfig(interval_width=0.2))
    stated = metrics.classes["benign"].sample_size
    assert stated["sensitivity"].n_patients == metrics.classes["benign"].n_patients
    assert stated["sensitivity"].wanted_width == 0.2
    assert "patients not labelled benign" in stated["specificity"].sentence


def test_perfect_calls_keep_an_interval_in_every_measure():
    truth = np.eye(3, dtype=bool)[[0, 1, 2] * 5]
    class_metrics = compute_metrics(
        LabelledPredictions.of(truth, truth * 0.8 + 0.2 / 3, [f"p{i}" for i in range(15)], THREE),
        resampling=Bootstrap(n_boot=100),
    ).classes["benign"]
    for measure in ("f1", "average_precision", "partial_auc"):
        estimate = getattr(class_metrics, measure)
        assert estimate.value == pytest.approx(1)
        assert estimate.ci95[0] < 0.95
        assert "Wilson" in estimate.method
        assert "draw" in estimate.method
    overlap = wilson(5, 5)[0]
    assert class_metrics.f1.ci95[0] == pytest.approx(2 * overlap / (1 + overlap))
    assert class_metrics.average_precision.ci95 == pytest.approx(wilson(5, 5))
    assert class_metrics.lr_positive.value is None
    assert (class_metrics.lr_negative.value, class_metrics.lr_negative.ci95[0]) == (0, 0)


def called_alike(n_patients: int, n_scans: int, wrong: bool = False) -> LabelledPredictions:
    """Patients of two classes with equal scans, all called right; ``wrong``: one scan of class b is called a."""
    of_patient = np.repeat([0, 1], n_patients)
    truth = np.eye(2, dtype=bool)[np.repeat(of_patient, n_scans)]
    patients = np.repeat([f"p{n}" for n in range(2 * n_patients)], n_scans)
    called = truth.copy()
    called[-1] ^= wrong
    return LabelledPredictions.of(truth, called.astype(float), patients, Labels(("a", "b")))


def test_scans_that_agree_say_no_more_of_ratios_and_predictive_values_than_their_patients():
    """Ninety scans of three patients a class: the limits were those of ninety patients, without a second interval."""
    config = EvaluationConfig(prevalence={"a": 0.1})
    often, once = (
        compute_metrics(called_alike(3, scans), config=config, resampling=Bootstrap(n_boot=100)).classes["a"]
        for scans in (30, 1)
    )
    assert often.lr_positive.reason == once.lr_positive.reason
    assert "its lower limit is" in once.lr_positive.reason
    for of_often, of_once in (
        (often.at_prevalence.ppv, once.at_prevalence.ppv),
        (often.at_prevalence.npv, once.at_prevalence.npv),
        (often.lr_negative, once.lr_negative),
    ):
        assert of_often.interval == pytest.approx(of_once.ci95)
        assert "at the effective number of scans" in of_often.method


def test_a_ratio_that_some_resamples_leave_without_bound_has_an_interval_over_patients():
    ratio = compute_metrics(called_alike(4, 10, wrong=True), resampling=Bootstrap(n_boot=100)).classes["a"].lr_positive
    assert ratio.ci95_cluster[0] < ratio.ci95[0] < ratio.value < ratio.ci95[1] < ratio.ci95_cluster[1]
    assert "of draws have no bound" in ratio.method


def test_a_class_without_a_case():
    truth, predicted = np.eye(3, dtype=bool)[[0, 0, 1, 1]], np.eye(3)[[0, 0, 1, 0]]
    config = EvaluationConfig(prevalence={"malignant": 0.1})
    metrics = compute_metrics(
        LabelledPredictions.of(truth, predicted, list("abcd"), THREE), resampling=Bootstrap(n_boot=50), config=config
    )
    class_metrics = metrics.classes["malignant"]
    for estimate in (
        *(getattr(class_metrics, name) for name in EXTRA),
        class_metrics.auc,
        class_metrics.at_prevalence.ppv,
    ):
        assert (estimate.value, estimate.ci95) == (None, None)
    no_case = "no scan of class malignant among the evaluated scans"
    for name in ("average_precision", "partial_auc", "lr_positive", "lr_negative"):
        assert getattr(class_metrics, name).reason == no_case
    assert class_metrics.f1.reason == "no scan of class malignant, and none was called so"
    assert set(class_metrics.sample_size) == {"specificity"}
    assert "without malignant" in metrics.macro_average_precision.method


def test_findings_that_no_scan_has_are_measured_all_the_same_and_say_why_there_is_no_mean():
    data = findings(n=30)
    predictions = LabelledPredictions.of(np.zeros_like(data.truth), data.probabilities, data.patients, data.labels)
    metrics = compute_metrics(predictions, resampling=Bootstrap(n_boot=50))
    assert metrics.classes["nodule"].specificity.value is not None
    assert metrics.macro_average_precision.value is None
    assert metrics.macro_average_precision.reason == "no class has a case among the evaluated scans"


def test_a_finding_that_every_scan_has_is_in_the_mean_of_average_precisions_and_not_of_aucs():
    """Its average precision is 1, and was said to be left out."""
    data = findings()
    data.truth[:, 1] = True
    name, metrics = data.labels.names[1], assess(data)
    precisions = [average_precision_score(*pair) for pair in zip(data.truth.T, data.probabilities.T, strict=True)]
    assert metrics.macro_average_precision.value == pytest.approx(np.mean(precisions))
    assert "without" not in metrics.macro_average_precision.method
    aucs = [roc_auc_score(data.truth[:, c], data.probabilities[:, c]) for c in (0, 2)]
    assert metrics.macro_auc.value == pytest.approx(np.mean(aucs))
    for mean in (metrics.macro_auc, metrics.balanced_accuracy):
        assert f"without {name}" in mean.method


def test_a_class_with_one_case():
    truth = np.eye(3, dtype=bool)[[0, 0, 0, 1, 1, 1, 2]]
    probabilities = 0.2 + 0.4 * np.eye(3)[[0, 0, 1, 1, 1, 0, 2]]
    class_metrics = compute_metrics(
        LabelledPredictions.of(truth, probabilities, list("abcdefg"), THREE), resampling=Bootstrap(n_boot=100)
    ).classes["malignant"]
    assert class_metrics.sensitivity.ci95 == pytest.approx(wilson(1, 1))
    assert class_metrics.auc.value == 1
    assert 0 < class_metrics.auc.ci95[0] < 0.5
    assert "Newcombe" in class_metrics.auc.method
    assert class_metrics.average_precision.ci95 == pytest.approx(wilson(1, 1))
    assert class_metrics.sample_size["sensitivity"].width > 0.7


@pytest.mark.parametrize(("rate", "correlation"), [(0.5, 0.3), (0.8, 0.3), (0.8, 0.6)])
def test_a_sensitivity_of_five_patients_with_ten_scans_each_has_an_interval_that_holds_it(rate, correlation):
    """Resampled patients held 83 to 87 % of these: of five there are too few different draws."""
    rng, finding, held = np.random.default_rng(0), Labels(("f",), multilabel=True), 0
    patients = [f"p{n}" for n in range(5) for _ in range(10)]
    for own in rng.beta(rate * (1 / correlation - 1), (1 - rate) * (1 / correlation - 1), (300, 5)):
        found = rng.random(50) < np.repeat(own, 10)
        truth, probabilities = np.ones((50, 1), dtype=bool), found[:, None].astype(float)
        predictions = LabelledPredictions.of(truth, probabilities, patients, finding)
        low, high = sensitivities(predictions)["f"].ci95_cluster
        held += low <= rate <= high
    assert held / 300 > 0.92


def test_all_scans_of_one_patient_count_as_one():
    truth = np.eye(3, dtype=bool)[[0, 1, 2] * 4]
    probabilities = 0.2 + 0.4 * np.eye(3)[[0, 1, 2, 0, 2, 2, 0, 1, 1, 0, 1, 2]]
    class_metrics = compute_metrics(
        LabelledPredictions.of(truth, probabilities, ["p"] * 12, THREE), resampling=Bootstrap(n_boot=50)
    ).classes["benign"]
    assert class_metrics.sensitivity.ci95_cluster == pytest.approx(clopper_pearson(0.75, 1))
    assert "Wilson over patients, because every draw" in class_metrics.f1.method
    overlap = jaccard_score(truth[:, 1], probabilities.argmax(axis=1) == 1)
    assert class_metrics.f1.ci95 == pytest.approx([2 * limit / (1 + limit) for limit in wilson(overlap, 1)])
    assert class_metrics.auc.ci95[1] - class_metrics.auc.ci95[0] > 0.6
    assert class_metrics.partial_auc.ci95[1] - class_metrics.partial_auc.ci95[0] > 0.3


def test_one_answer_for_all_scans_has_an_auc_of_one_half_without_spread():
    truth = np.eye(3, dtype=bool)[[0, 1, 2] * 4]
    class_metrics = compute_metrics(
        LabelledPredictions.of(truth, np.full((12, 3), 1 / 3), [f"p{i}" for i in range(12)], THREE),
        resampling=Bootstrap(n_boot=50),
    ).classes["benign"]
    for estimate in (class_metrics.auc, class_metrics.partial_auc):
        assert estimate.value == pytest.approx(0.5)
        assert estimate.ci95 == pytest.approx((0.5, 0.5))
        assert "every scan gets the same answer" in estimate.method


@pytest.mark.parametrize(("n", "right", "wrong"), [(5, 0.95, 0.1), (20, 0.99, 0.05)])
def test_calls_that_happen_to_be_alike_do_not_make_a_balanced_accuracy_certain(n, right, wrong):
    rng, held = np.random.default_rng(1), []
    truth = np.repeat(np.eye(2, dtype=bool), n, axis=0)
    for _ in range(200):
        second = np.where(truth[:, 1], rng.random(2 * n) < wrong, rng.random(2 * n) > right)
        probability = np.where(second, rng.uniform(0.5, 1, 2 * n), rng.uniform(0, 0.5, 2 * n))
        low, high = balanced_accuracy(_two_classes(truth, probability)).ci95
        held.append(low <= (right + wrong) / 2 <= high)
    assert np.mean(held) >= 0.93


@pytest.mark.parametrize("probability", [0.9, 0.1])
def test_one_class_alone_has_the_interval_of_its_sensitivity(probability):
    truth = np.tile([False, True], (8, 1))
    found = balanced_accuracy(_two_classes(truth, np.full(8, probability)))
    assert found.value == round(probability)
    assert found.ci95 == pytest.approx(clopper_pearson(8 * round(probability), 8))


def test_one_answer_for_all_scans_of_two_classes_is_chance_in_any_sample():
    truth = np.repeat(np.eye(2, dtype=bool), 4, axis=0)
    assert balanced_accuracy(_two_classes(truth, np.full(8, 0.7))).ci95 == (0.5, 0.5)


def _two_classes(truth, probability):
    patients = [f"p{n}" for n in range(len(truth))]
    return LabelledPredictions.of(truth, np.column_stack([1 - probability, probability]), patients, Labels(("a", "b")))


def test_percentiles_that_agree_do_not_make_a_partial_auc_certain():
    """Below the diagonal's corner nearly every draw has an area of 0."""
    truth = np.array([1, 1, 1, 0, 0, 0, 0, 0], dtype=bool)
    score = np.array([0.2, 0.3, 0.4, 0.1, 0.5, 0.6, 0.7, 0.8])
    found = partial_auc(
        _two_classes(np.column_stack([~truth, truth]), score), 1, PatientBootstrap([f"p{n}" for n in range(8)], 400)
    )
    assert found.ci95[1] - found.ci95[0] > 0.1


def test_a_difference_that_most_draws_lack_says_why_it_has_no_interval():
    truth = np.array([[True, False]] * 2)
    one = _two_classes(np.vstack([truth, [[False, True]]]), np.array([0.1, 0.2, 0.3]))
    nothing = paired_difference(one, one, PatientBootstrap(["a", "a", "b"], 200)).macro_auc
    assert (nothing.value, nothing.ci95 is None, bool(nothing.reason)) == (0, True, True)


def test_probabilities_that_do_not_sum_to_one_are_refused_unless_findings():
    data = three_classes(10)
    broken = data.probabilities.copy()
    broken[[1, 4]] *= 0.9
    with pytest.raises(UsageError, match=r"probabilities: the probabilities of 2 of 10 scans do not sum to 1.*softmax"):
        compute_metrics(LabelledPredictions.of(data.truth, broken, data.patients, THREE))
    rounded = np.round(data.probabilities, 4)
    assert (
        compute_metrics(
            LabelledPredictions.of(data.truth, rounded, data.patients, THREE), resampling=Bootstrap(n_boot=20)
        ).n_scans
        == 10
    )
    assert assess(findings(20)).n_scans == 20


def two_classes(rng, n_cases, n_others, separation, per_patient=1):
    truth = np.repeat([0, 1], [n_others, n_cases])
    odds = np.exp(rng.normal(size=truth.size) + separation * truth)
    patients = [f"p{scan // per_patient}" for scan in range(truth.size)]
    shares = np.column_stack([1 / (1 + odds), odds / (1 + odds)])
    return LabelledPredictions.of(np.eye(2, dtype=bool)[truth], shares, patients, Labels(("no", "yes")))


@pytest.mark.parametrize("per_patient", [1, 3])
def test_of_two_classes_one_number_has_one_interval(per_patient):
    predictions = two_classes(np.random.default_rng(4), 7, 20, 1.0, per_patient)
    metrics = compute_metrics(predictions, resampling=Bootstrap(n_boot=50, seed=0))
    of_classes = [metrics.classes[name].auc for name in ("no", "yes")]
    for of_class in of_classes:
        assert of_class.value == pytest.approx(metrics.macro_auc.value)
        assert of_class.ci95 == pytest.approx(metrics.macro_auc.ci95)


def test_the_interval_of_four_cases_among_forty_others_holds_what_it_says():
    rng, held = np.random.default_rng(1), 0
    for _ in range(400):
        low, high = class_auc(two_classes(rng, 4, 40, 0.0), 1).ci95
        held += low <= 0.5 <= high
    assert held >= 374  # 93.5 %; with a normal quantile 90
