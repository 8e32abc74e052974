from report_samples import metrics_of, sample
from simulated_scores import three_classes

from med_transfer.predictions.record import Prediction
from med_transfer.report.evidence import Evidence
from med_transfer.report.sections.first_screen_notices import notices


def by_title(metrics):
    return {notice.title: notice for notice in notices(Evidence(metrics, sample().run))}


def test_a_baseline_that_is_not_beaten_is_a_warning():
    data = three_classes(signal=0.3)
    better = three_classes(signal=3)
    shown = by_title(metrics_of(data, baselines={"handcrafted": better.probabilities}))
    assert shown["The network does not beat the handcrafted baseline"].level == "warning"
    metrics = metrics_of(better)
    shown = by_title(metrics)
    assert shown["The network beats the handcrafted baseline"].level == "good"
    unsure = metrics.baselines["handcrafted"].macro_auc_gain.model_copy(update={"value": 0.02, "ci95": (-0.01, 0.05)})
    doubtful = metrics.baselines["handcrafted"].model_copy(update={"macro_auc_gain": unsure})
    shown = by_title(metrics.model_copy(update={"baselines": {"handcrafted": doubtful}}))
    notice = shown["The network is not shown to beat the handcrafted baseline"]
    assert notice.level == "warning"
    assert "+0.020 (95 % CI −0.010 to +0.050)" in notice.text


def test_failures_and_few_scans_are_warnings():
    data = three_classes(30)
    failed = [Prediction("s", status="failed", reason="truncated")]
    shown = by_title(metrics_of(data, failed=failed))
    assert "truncated (1 scan)" in shown["1 of 31 scans gave no prediction"].text
    few = [f"{name} ({n})" for name, n in zip(data.labels.names, data.truth.sum(0), strict=True) if n < 10]
    assert ", ".join(few) in shown["Too few test scans to trust a rate"].text


def test_a_class_that_is_never_called_is_a_warning_even_where_transfer_helped():
    data = three_classes()
    probabilities = data.probabilities * [1, 1e-6, 1]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    squashed = type(data)(data.truth, probabilities, data.patients, data.labels)
    name = data.labels.names[1]
    assert by_title(metrics_of(squashed, transfer_gain=None, baselines={}))[f"Never called: {name}"].level == "warning"
    assert not any(title.startswith("Never called") for title in by_title(sample().metrics))


def test_probabilities_of_few_patients_and_a_run_without_test_patients_are_said():
    metrics = metrics_of(three_classes())
    few, none_kept = "Probabilities are calibrated on few patients", "No patients were kept apart for a test"
    assert not {few, none_kept} & by_title(metrics).keys()
    known = {"calibrated_on": {"healthy": 30, "benign": 4, "malignant": 9}, "out_of_fold": True}
    shown = by_title(metrics.model_copy(update=known))
    assert (shown[few].level, shown[none_kept].level) == ("warning", "warning")
    assert "benign (4), malignant (9). Under 10 of a class" in shown[few].text
