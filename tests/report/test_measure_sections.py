"""The page on likelihood ratios, ranking, another prevalence, and what a number of patients can show."""

import csv

import numpy as np
import pytest
from report_samples import Page, evidence, metrics_of, sample, write
from scipy.stats import binomtest
from simulated_scores import THREE, three_classes
from statsmodels.stats.proportion import proportion_confint

from med_transfer.metrics.compute_metrics import compute_metrics
from med_transfer.metrics.config import EvaluationConfig
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.calibration import BrierDecomposition
from med_transfer.metrics.records.metrics import Bootstrap
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.report.sections.calibration import _parts


def rows_of(folder, name):
    with (folder / "report_files" / "tables" / f"{name}.csv").open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def stated(tmp_path_factory):
    """A report whose reader stated a prevalence and wants exact intervals: metrics, page, folder."""
    config = EvaluationConfig(interval="clopper-pearson", prevalence={"malignant": 0.02}, interval_width=0.2)
    data, folder = three_classes(), tmp_path_factory.mktemp("stated")
    metrics = metrics_of(data, config=config)
    return metrics, Page(write(folder / "report.html", evidence(data, metrics))), folder


def test_every_measure_stands_in_the_page_and_unrounded_in_the_table(stated):
    metrics, page, folder = stated
    for row, (name, class_metrics) in zip(
        rows_of(folder, "further_measures-calls"), metrics.classes.items(), strict=True
    ):
        assert row["Class"] == name
        assert float(row["LR+"]) == class_metrics.lr_positive.value
        assert float(row["LR−, 95 % CI, high"]) == class_metrics.lr_negative.ci95[1]
        assert f"{class_metrics.f1.value:.3f}" in page.text
        assert f"{class_metrics.lr_positive.ci95[0]:.2f} to {class_metrics.lr_positive.ci95[1]:.2f}" in page.text
    *classes, macro, micro = rows_of(folder, "further_measures-ranking")
    partial = "AUC at specificity 80 % or more"
    assert [float(row[partial]) for row in classes] == [
        class_metrics.partial_auc.value for class_metrics in metrics.classes.values()
    ]
    assert float(macro["Average precision"]) == metrics.macro_average_precision.value
    assert (float(micro["AUC"]), micro["Average precision"]) == (metrics.micro_auc.value, "")


def test_the_interval_that_was_chosen_is_named(stated):
    assert "with 95 % intervals (Clopper-Pearson; AUC: DeLong)" in stated[1].text
    assert "predictive values: Clopper-Pearson exact interval" in stated[1].text


def test_predictive_values_stand_at_the_stated_prevalence_beside_those_here(stated):
    metrics, page, folder = stated
    (row,) = rows_of(folder, "prevalence-stated")
    class_metrics = metrics.classes["malignant"]
    assert row["Class"] == "malignant"
    assert (float(row["Stated prevalence"]), float(row["Prevalence here"])) == (0.02, metrics.prevalence["malignant"])
    assert (
        float(row["PPV at stated prevalence"])
        == class_metrics.at_prevalence.ppv.value
        < float(row["PPV here"])
        == class_metrics.ppv.value
    )
    assert "At another prevalence" in page.text
    assert "At another prevalence" not in Page(write(folder / "other" / "report.html", sample())).text


def least(rate):
    """The smallest number of patients whose Wilson interval is at most 0.1 wide, by trying them all."""
    widths = ((n, np.ptp(proportion_confint(rate * n, n, method="wilson"))) for n in range(1, 1000))
    return next(n for n, width in widths if width <= 0.1)


def test_what_the_patients_can_show_is_said_in_words(tmp_path):
    truth = np.eye(3, dtype=bool)[np.repeat([0, 1, 2], [20, 30, 31])]
    predicted = np.eye(3)[np.r_[np.repeat([0, 1], [17, 3]), truth[20:].argmax(axis=1)]]
    data = three_classes(81)
    data = type(data)(truth, 0.1 + 0.7 * predicted, data.patients, THREE)
    page = Page(write(tmp_path / "report.html", evidence(data, metrics_of(data))))
    low, high = binomtest(17, 20).proportion_ci(method="wilson")
    assert (
        f"With 20 patients labelled healthy, a sensitivity of 0.85 has an interval of {low:.2f} to {high:.2f}; a "
        f"width of 0.1 requires about {least(0.85)} patients if the sensitivity stays the same, and up to "
        f"{least(low)} if it is 0.64." in page.text
    )
    rows = rows_of(tmp_path, "sample_size-patients")
    assert [row["Rate"] for row in rows] == ["Sensitivity", "Specificity"] * 3
    assert float(rows[0]["Width of the interval"]) == pytest.approx(high - low)


def test_one_patient_is_one_patient(tmp_path):
    data = three_classes(3)
    data = type(data)(np.eye(3, dtype=bool), data.probabilities, data.patients, THREE)
    page = Page(write(tmp_path / "report.html", evidence(data, metrics_of(data))))
    assert "With 1 patient labelled healthy, a sensitivity of" in page.text
    assert "With 1 patients" not in page.text


def test_what_is_undefined_is_shown_so_with_its_reason_and_never_as_zero(tmp_path):
    truth = np.eye(3, dtype=bool)[[0, 0, 1, 1]]
    config = EvaluationConfig(prevalence={"malignant": 0.1})
    metrics = compute_metrics(
        LabelledPredictions.of(truth, np.eye(3)[[0, 0, 1, 0]], list("abcd"), THREE),
        resampling=Bootstrap(n_boot=50),
        config=config,
    )
    scans = {"truth": truth, "probabilities": np.eye(3)[[0, 0, 1, 0]], "patients": "abcd"}
    page = Page(write(tmp_path / "report.html", evidence(three_classes(3), metrics, **scans)))
    assert "undefined no scan of class malignant among the evaluated scans" in page.text
    assert "undefined no scan of another class was called benign, so the ratio has no upper bound" in page.text
    (row,) = (row for row in rows_of(tmp_path, "further_measures-calls") if row["Class"] == "malignant")
    assert {row["LR+"], row["LR−"], row["F1"]} == {""}
    assert rows_of(tmp_path, "prevalence-stated")[0]["PPV at stated prevalence"] == ""


def test_several_scans_a_patient_get_obuchowski_and_a_second_interval(tmp_path):
    data = three_classes(scans_per_patient=2)
    metrics = metrics_of(data, config=EvaluationConfig(prevalence={"benign": 0.1}))
    page = Page(write(tmp_path / "report.html", evidence(data, metrics)))
    assert "(Wilson; AUC: Obuchowski)" in page.text
    second = metrics.classes["benign"].at_prevalence.ppv.ci95_cluster
    assert f"† {100 * second[0]:.1f} to {100 * second[1]:.1f}" in page.text


def test_a_part_of_the_brier_score_that_is_nearly_0_is_not_shown_as_0():
    parts = _parts(BrierDecomposition(reliability=0.00006, resolution=0.0, uncertainty=0.2222, within_bins=0.0))
    assert [cell.text for cell in parts] == ["0.0001", "0.000", "0.222"]


def test_the_reliability_diagram_is_of_the_most_probable_class_even_if_another_is_called(tmp_path):
    """It said that it is of the called class, which the default rule makes another one where classes are rare."""
    data = three_classes()
    point = OperatingPoint.balanced(data.labels, (0.6, 0.3, 0.1))
    metrics = metrics_of(data, operating_point=point)
    called = point.predictions(data.probabilities, data.labels).argmax(axis=1)
    top = data.probabilities.argmax(axis=1)
    assert (called != top).any()
    claimed = [one.mean_probability * one.n for one in metrics.calibration.bins]
    assert sum(claimed) == pytest.approx(data.probabilities.max(axis=1).sum())
    page = Page(write(tmp_path / "report.html", evidence(data, metrics)))
    assert "for the most probable class, whichever is called; the number is the number of scans" in page.text
