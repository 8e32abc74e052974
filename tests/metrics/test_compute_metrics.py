import json
import time

import numpy as np
import pytest
from scipy.stats import binomtest
from simulated_scores import THREE, findings, three_classes
from sklearn.metrics import confusion_matrix, recall_score, roc_auc_score

from med_transfer.errors import CohortError, NothingDone, OutputError, UsageError
from med_transfer.metrics.compute_metrics import compute_metrics
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.metrics import Bootstrap, Metrics
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.record import Prediction


def assess(data, *, operating_point=None, seed=0, **options):
    predictions = LabelledPredictions.of(data.truth, data.probabilities, data.patients, data.labels, operating_point)
    return compute_metrics(predictions, resampling=Bootstrap(n_boot=200, seed=seed), **options)


def all_estimates(metrics):
    for class_metrics in metrics.classes.values():
        yield from (
            class_metrics.sensitivity,
            class_metrics.specificity,
            class_metrics.ppv,
            class_metrics.npv,
            class_metrics.auc,
        )
    yield from (metrics.balanced_accuracy, metrics.macro_auc, metrics.calibration.brier)


def test_rates_and_aucs_equal_scikit_learn():
    data = three_classes()
    metrics = assess(data)
    truth, predicted = data.truth.argmax(axis=1), data.probabilities.argmax(axis=1)
    assert metrics.confusion_matrix == confusion_matrix(truth, predicted).tolist()
    for c, name in enumerate(data.labels.names):
        class_metrics = metrics.classes[name]
        assert class_metrics.n == data.truth[:, c].sum()
        assert class_metrics.sensitivity.value == pytest.approx(recall_score(truth == c, predicted == c))
        assert class_metrics.specificity.value == pytest.approx(recall_score(truth != c, predicted != c))
        assert class_metrics.auc.value == pytest.approx(roc_auc_score(truth == c, data.probabilities[:, c]))
    assert metrics.macro_auc.value == pytest.approx(roc_auc_score(data.truth, data.probabilities))
    assert sum(metrics.prevalence.values()) == pytest.approx(1)


def test_intervals_of_rates_are_wilson_s_and_every_interval_holds_its_estimate():
    metrics = assess(three_classes())
    class_metrics = metrics.classes["malignant"]
    theirs = binomtest(class_metrics.counts.true_positive, class_metrics.n).proportion_ci(method="wilson")
    assert class_metrics.sensitivity.ci95 == pytest.approx((theirs.low, theirs.high))
    for estimate in all_estimates(metrics):
        assert estimate.ci95[0] <= estimate.value <= estimate.ci95[1]
        assert estimate.method


def test_the_interval_over_patients_is_given_when_patients_have_several_scans_and_only_then():
    alone, several = assess(three_classes()), assess(three_classes(scans_per_patient=3))
    assert alone.classes["benign"].sensitivity.ci95_cluster is None
    sensitivity = several.classes["benign"].sensitivity
    assert sensitivity.ci95_cluster[0] < sensitivity.value < sensitivity.ci95_cluster[1]
    assert "over patients" in sensitivity.method
    assert several.n_patients == 40


def test_scans_that_a_patient_repeats_do_not_narrow_the_interval_over_patients():
    once = three_classes(60)
    truth, probabilities = (np.repeat(array, 4, axis=0) for array in (once.truth, once.probabilities))
    again = compute_metrics(
        LabelledPredictions.of(truth, probabilities, [p for p in once.patients for _ in range(4)], THREE)
    )
    alone = compute_metrics(LabelledPredictions.of(once.truth, once.probabilities, once.patients, THREE))
    assert again.macro_auc.ci95 == pytest.approx(alone.macro_auc.ci95)
    wilson, cluster = (again.classes["benign"].sensitivity.ci95, again.classes["benign"].sensitivity.ci95_cluster)
    assert cluster[1] - cluster[0] > 1.5 * (wilson[1] - wilson[0])


def test_perfect_separation_still_has_an_interval():
    truth = np.eye(3, dtype=bool)[[0, 1, 2] * 5]
    patients = [f"p{i}" for i in range(15)]
    metrics = compute_metrics(LabelledPredictions.of(truth, truth * 0.8 + 0.2 / 3, patients, THREE))
    for estimate in (metrics.macro_auc, metrics.balanced_accuracy, metrics.classes["benign"].auc):
        assert estimate.value == pytest.approx(1)
        assert 0.4 < estimate.ci95[0] < 0.95
        assert "(MOVER)" in estimate.method or "DeLong's variance is 0" in estimate.method
    twins = compute_metrics(
        LabelledPredictions.of(truth, truth * 0.8 + 0.2 / 3, [p for p in patients[:5] for _ in range(3)], THREE)
    )
    assert twins.classes["benign"].sensitivity.ci95_cluster == pytest.approx(
        tuple(binomtest(5, 5).proportion_ci(method="wilson"))
    )


def test_an_undefined_measure_is_null_with_its_reason():
    truth = np.eye(3, dtype=bool)[[0, 0, 1, 1]]
    predicted = np.eye(3)[[0, 0, 1, 0]]
    metrics = compute_metrics(
        LabelledPredictions.of(truth, predicted, list("abcd"), THREE), resampling=Bootstrap(n_boot=200)
    )
    class_metrics = metrics.classes["malignant"]
    for estimate in (class_metrics.sensitivity, class_metrics.ppv, class_metrics.auc):
        assert (estimate.value, estimate.ci95) == (None, None)
    assert class_metrics.sensitivity.reason == "no scan of class malignant among the evaluated scans"
    assert class_metrics.ppv.reason == "no evaluated scan was called malignant"
    assert class_metrics.npv.value == 1
    assert metrics.balanced_accuracy.value == pytest.approx(0.75)
    assert "without malignant" in metrics.balanced_accuracy.method


def test_a_test_set_of_one_class_has_no_auc():
    metrics = compute_metrics(
        LabelledPredictions.of(np.eye(3, dtype=bool)[[0, 0]], np.full((2, 3), 1 / 3), ["a", "b"], THREE),
        resampling=Bootstrap(n_boot=50),
    )
    assert metrics.macro_auc.value is None
    assert "no class" in metrics.macro_auc.reason
    assert metrics.classes["healthy"].auc.reason == "no scan of another class than healthy among the evaluated scans"
    assert metrics.classes["healthy"].specificity.value is None


def test_findings():
    data = findings()
    metrics = assess(data, baselines={"prevalence": np.tile(data.truth.mean(0), (120, 1))})
    assert metrics.confusion_matrix is None
    assert metrics.multilabel
    predicted = data.probabilities >= 0.5
    for c, name in enumerate(data.labels.names):
        assert metrics.classes[name].sensitivity.value == pytest.approx(recall_score(data.truth[:, c], predicted[:, c]))
    raised = OperatingPoint(rule="threshold", thresholds={"consolidation": 0.3, "effusion": 0.5, "nodule": 0.9})
    moved = assess(data, operating_point=raised)
    assert moved.classes["consolidation"].sensitivity.value > metrics.classes["consolidation"].sensitivity.value
    assert moved.classes["nodule"].sensitivity.value < metrics.classes["nodule"].sensitivity.value
    assert moved.macro_auc == metrics.macro_auc


def test_baselines_are_measured_on_the_same_scans_and_compared_in_pairs():
    data, worse = three_classes(signal=2.5), three_classes(signal=0.2)
    constant = np.tile(data.truth.mean(0), (120, 1))
    at_equal_classes = data.probabilities / constant / (data.probabilities / constant).sum(axis=1, keepdims=True)
    metrics = assess(
        data, baselines={"handcrafted": worse.probabilities, "prevalence": constant, "baseline": at_equal_classes}
    )
    weak = metrics.baselines["handcrafted"]
    assert weak.macro_auc_gain.value == pytest.approx(metrics.macro_auc.value - weak.macro_auc.value)
    assert weak.macro_auc_gain.excludes_zero == 1
    assert metrics.baselines["baseline"].macro_auc_gain.ci95 == pytest.approx((0, 0), abs=1e-9)
    assert metrics.baselines["baseline"].brier.value == pytest.approx(metrics.calibration.brier.value)
    sensitivity = recall_score(data.truth.argmax(1), at_equal_classes.argmax(1), average=None)
    assert [rate.value for rate in metrics.baselines["baseline"].sensitivity.values()] == pytest.approx(sensitivity)
    assert metrics.baselines["prevalence"].macro_auc.value == 0.5
    assert metrics.baselines["prevalence"].sensitivity["healthy"].value == 1
    assert metrics.baselines["prevalence"].balanced_accuracy.ci95 == pytest.approx((1 / 3, 1 / 3))


def test_subgroups_of_few_patients_are_masked():
    data = three_classes()
    metrics = assess(data, subgroups={"scanner": ["A"] * 60 + ["B"] * 55 + ["C"] * 5})
    groups = metrics.subgroups["scanner"]
    assert [groups[name].n for name in "ABC"] == [60, 55, 5]
    assert groups["A"].macro_auc.value == pytest.approx(roc_auc_score(data.truth[:60], data.probabilities[:60]))
    assert groups["C"].macro_auc.value is None
    assert groups["C"].sensitivity["healthy"].reason == "fewer than 10 patients"
    with pytest.raises(UsageError, match=r"subgroups.sex: 3 values; expected 120"):
        assess(data, subgroups={"sex": ["f"] * 3})


def test_failed_scans_are_counted_by_reason_without_their_path():
    failed = [
        Prediction("a", status="rejected", reason="a: gap between slices.", problem="gap between slices.", found="gap"),
        Prediction(
            "b", status="rejected", reason="b/0001.dcm: gap between slices.", problem="gap between slices.", found="gap"
        ),
        Prediction("c", status="failed", reason="truncated"),
        Prediction("d", status="failed"),
        Prediction("e"),
    ]
    metrics = assess(three_classes(), failed=failed)
    assert metrics.failed.n == 4
    assert metrics.failed.reasons == {"gap between slices.": 2, "truncated": 1, "failed": 1}
    assert metrics.n_scans == 120


def test_metrics_that_say_nothing_of_failed_scans_have_none():
    content = assess(three_classes()).model_dump()
    del content["failed"]
    assert Metrics.model_validate(content).failed.n == 0


def test_equal_seeds_give_equal_metrics():
    data = three_classes()
    assert assess(data, seed=1) == assess(data, seed=1)
    assert assess(data, seed=1).micro_auc.ci95 != assess(data, seed=2).micro_auc.ci95


def test_five_hundred_scans_take_seconds():
    data = three_classes(500, scans_per_patient=2)
    begin = time.process_time()
    compute_metrics(LabelledPredictions.of(data.truth, data.probabilities, data.patients, data.labels))
    assert time.process_time() - begin < 5


def test_wrong_arrays_are_refused():
    data = three_classes(10)
    with pytest.raises(UsageError, match=r"truth: shape \(9, 3\); expected \(10, 3\)"):
        compute_metrics(LabelledPredictions.of(data.truth[:9], data.probabilities, data.patients, THREE))
    broken = data.probabilities.copy()
    broken[[2, 5], 1] = np.nan, 1.5
    with pytest.raises(
        UsageError, match="^probabilities: 2 of 10 scans have a probability that is missing or out of range"
    ):
        compute_metrics(LabelledPredictions.of(data.truth, broken, data.patients, THREE))
    with pytest.raises(CohortError, match="^truth: 10 scans without exactly one class"):
        compute_metrics(LabelledPredictions.of(data.truth * False, data.probabilities, data.patients, THREE))
    with pytest.raises(NothingDone, match="no scan has a prediction"):
        compute_metrics(LabelledPredictions.of(data.truth[:0], data.probabilities[:0], [], THREE))


@pytest.mark.parametrize("simulate", [three_classes, findings])
def test_metrics_json_survives_a_round_trip(tmp_path, simulate):
    data = simulate()
    metrics = assess(data, baselines={"handcrafted": data.probabilities}, subgroups={"site": ["x"] * 120})
    path = tmp_path / "new" / "metrics.json"
    metrics.save(path)
    assert Metrics.load(path) == metrics
    written = json.loads(path.read_text())
    assert written["schema"] == "1"
    assert set(written["classes"][data.labels.names[0]]["sensitivity"]) >= {"value", "ci95", "method"}
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


def test_a_file_that_is_not_metrics_json_is_refused(tmp_path):
    path = tmp_path / "metrics.json"
    with pytest.raises(UsageError, match=r"metrics\.json: cannot be read; expected a metrics"):
        Metrics.load(path)
    assess(three_classes()).save(path)
    path.write_text(path.read_text().replace('"schema": "1"', '"schema": "2"'))
    with pytest.raises(UsageError, match=r"metrics\.json: .*first schema: .*; expected a metrics.json of schema 1"):
        Metrics.load(path)
    path.write_text("{")
    with pytest.raises(UsageError, match=r"metrics\.json: 1 entries do not fit"):
        Metrics.load(path)


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        assess(three_classes()).save(tmp_path / "file" / "metrics.json")
