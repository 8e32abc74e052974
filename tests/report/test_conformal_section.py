"""The report on decision curves, prediction sets and abstention."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from report_samples import Page, evidence, metrics_of, sample, write
from simulated_scores import findings, three_classes

from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.prediction_sets import measure_sets
from med_transfer.metrics.records.subgroups import Subgroup
from med_transfer.model.calibration import PredictionSets
from med_transfer.page.language import translator
from med_transfer.report.sections import conformal, decision_curve

MAKE = {"three_classes": three_classes, "findings": findings}
THRESHOLDS = (0.2, 0.3, 0.0)


def with_sets(kind, target=0.9):
    data = MAKE[kind]()
    predictions = LabelledPredictions.of(data.truth, data.probabilities, data.patients, data.labels)
    sets = measure_sets(predictions, PredictionSets(coverage=target, thresholds=THRESHOLDS, n_patients=(31, 40, 5)))
    return evidence(data, sample(kind).metrics.model_copy(update={"prediction_sets": sets}))


def rows_of(folder, name):
    with (folder / "report_files" / "tables" / f"{name}.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", MAKE)
def test_coverage_asked_and_reached_stands_in_the_report_for_every_class(tmp_path, kind):
    shown = with_sets(kind)
    page = Page(write(tmp_path / "report.html", shown))
    rows = rows_of(tmp_path, "conformal-coverage")
    for row, (name, class_sets) in zip(rows[:-1], shown.metrics.prediction_sets.classes.items(), strict=True):
        assert (row["Class"], float(row["Target"])) == (name, 0.9)
        assert float(row["Achieved on the evaluated scans"]) == class_sets.coverage.value
        assert f"{100 * class_sets.coverage.value:.1f} %" in page.text
    assert rows[-1]["Class"] == "All"
    third = shown.metrics.labels[2]
    assert f"too few validation patients are available to rule it out: {third}." in page.text
    assert ("Of the sets with exactly one class" in page.text) == (kind == "three_classes")
    sizes = [int(row["Test scans"]) for row in rows_of(tmp_path, "conformal-sizes")]
    assert sum(sizes) == shown.metrics.n_scans


def test_a_class_that_falls_short_is_named(tmp_path):
    page = Page(write(tmp_path / "report.html", with_sets("three_classes", target=0.999)))
    short = with_sets("three_classes", target=0.999).metrics.prediction_sets.short_of_target
    assert short
    assert f"Below the target, beyond chance: {', '.join(short)}." in page.text


@pytest.mark.parametrize("kind", MAKE)
def test_abstention_tells_how_much_of_each_class_is_called(tmp_path, kind):
    write(tmp_path / "report.html", sample(kind))
    rows, points = rows_of(tmp_path, "conformal-abstention"), sample(kind).metrics.abstention
    for row, point in zip(rows, points, strict=True):
        assert float(row["Called"]) == point.share
        for name in sample(kind).metrics.labels:
            shown = row[f"Sensitivity, {name}, share of the class called"]
            assert float(shown) == pytest.approx(point.called[name])


def test_the_file_has_every_point_of_the_decision_curves(tmp_path):
    write(tmp_path / "report.html", sample())
    curves = sample().metrics.decision_curves
    rows = rows_of(tmp_path, "decision_curve-points")
    assert len(rows) == sum(len(curve.points) for curve in curves.values())
    first, point = rows[0], next(iter(curves.values())).points[0]
    assert (float(first["Threshold"]), float(first["Net benefit"])) == (point.threshold, point.net_benefit)


@pytest.mark.parametrize(("n_classes", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (5, 3, 2)])
def test_each_panel_of_decision_curves_is_about_as_high_as_wide(n_classes, columns, rows):
    metrics = sample().metrics
    name, curve = next(iter(metrics.decision_curves.items()))
    prevalence = {f"{name} {k}": metrics.prevalence[name] for k in range(n_classes)}
    many = metrics.model_copy(update={"prevalence": prevalence, "decision_curves": dict.fromkeys(prevalence, curve)})
    width, height = decision_curve.net_benefit(many, translator("en")).size
    assert 0.75 < (width / columns) / (height / rows) < 1.34


def test_a_panel_shows_who_treats_no_one_and_the_whole_band_above():
    metrics = sample().metrics
    for name, curve in metrics.decision_curves.items():
        axes = Figure().subplots()
        decision_curve._panel(axes, name, curve, metrics.prevalence[name], translator("en"))
        low, high = axes.get_ylim()
        assert low < 0 < max(point.ci95[1] for point in curve.points if point.ci95) < high
        assert high > metrics.prevalence[name]  # where treating everyone begins


def test_thresholds_at_which_the_network_is_useful_are_joined():
    data = sample()
    table = decision_curve.section(data, translator("en")).tables[0]
    assert table.caption.endswith(
        "by the 95 % interval of each threshold on its own: of 23, some may appear so by chance"
    )
    ranges = {row[0]: row[2] for row in table.rows}
    for name, curve in data.metrics.decision_curves.items():
        useful = [point.threshold for point in curve.points if point.useful]
        assert useful
        assert ranges[name].startswith(f"{100 * useful[0]:g} %")
        assert ranges[name].endswith(f"{100 * useful[-1]:g} %")


def test_metrics_from_before_have_neither_section():
    metrics = sample().metrics.model_copy(update={"decision_curves": {}, "abstention": []})
    without = evidence(three_classes(), metrics)
    assert decision_curve.section(evidence(three_classes(), sample().metrics), translator("en")) is not None
    assert decision_curve.section(without, translator("en")) is None
    assert conformal.section(without, translator("en")) is None


def test_what_says_nothing_is_left_out_and_named_with_its_reason(tmp_path):
    """Sets of all classes, an abstention of one row, decision curves of few patients as an older record has them."""
    given = with_sets("three_classes")
    full = given.metrics.prediction_sets.model_copy(update={"sizes": [0, 0, 0, given.metrics.n_scans]})
    classes = {name: one.model_copy(update={"n_patients": 6}) for name, one in given.metrics.classes.items()}
    nothing = {"prediction_sets": full, "abstention": given.metrics.abstention[:1], "classes": classes}
    page = Page(
        write(tmp_path / "report.html", replace(given, metrics=given.metrics.model_copy(update=nothing), curves=()))
    )
    shown = {attrs.get("id") for attrs in page.having("section")}
    assert "rates" in shown
    assert not {"conformal", "decision_curve", "training"} & shown
    assert (
        "Not shown, for lack of content: Decision curves (fewer than 10 patients with or without each class); "
        "Prediction sets and abstention (every set contains every class: none can be ruled out, the network is "
        "equally certain of all scans)." in page.text
    )
    assert not list((tmp_path / "report_files" / "tables").glob("conformal-*"))
    two = given.metrics.model_copy(update={"abstention": given.metrics.abstention[:1]})
    assert conformal.section(replace(given, metrics=two), translator("en")).left_out[0].title == "Abstention"


def test_decision_curves_of_patients_with_scans_of_several_classes_are_shown():
    """All 15 patients have every class; it was said that fewer than 10 are with or without each."""
    data = three_classes()
    patients = np.empty(len(data.truth), dtype=object)
    for column in data.truth.T:
        patients[column] = [f"p{number % 15}" for number in range(column.sum())]
    several = type(data)(data.truth, data.probabilities, patients.tolist(), data.labels)
    metrics = metrics_of(several, transfer_gain=None, baselines={})
    assert {one.n_patients for one in metrics.classes.values()} == {metrics.n_patients} == {15}
    shown = decision_curve.section(evidence(several, metrics), translator("en"))
    assert [row[0].text for row in shown.tables[0].cells] == list(metrics.labels)


def test_a_balanced_accuracy_of_the_scans_that_are_called_says_which_classes_it_is_without(tmp_path):
    """Where all scans of a hard class are left to a human, it rose without a word."""
    data = three_classes()
    probabilities = data.probabilities.copy()
    probabilities[data.truth[:, 2]] = [0.36, 0.34, 0.3]  # the least certain
    metrics = metrics_of(replace(data, probabilities=probabilities))
    absent = [point.sensitivity["malignant"].value is None for point in metrics.abstention]
    assert any(absent)
    text = Page(write(tmp_path / "report.html", evidence(data, metrics))).text
    assert text.count("without malignant") == sum(absent)


def test_it_also_says_so_of_a_finding_that_every_called_scan_has(tmp_path):
    """Its sensitivity is defined among them, and its specificity is not."""
    data = findings()
    probabilities = data.probabilities.copy()
    probabilities[~data.truth[:, 0]] = 0.5  # the least certain
    probabilities[data.truth[:, 0]] = 0.9
    metrics = metrics_of(replace(data, probabilities=probabilities))
    name, has = data.labels.names[0], int(data.truth[:, 0].sum())
    everyone_has_it = [point.n_scans <= has for point in metrics.abstention]
    assert any(everyone_has_it)
    assert all(point.sensitivity[name].value is not None for point in metrics.abstention)
    text = Page(write(tmp_path / "report.html", evidence(data, metrics))).text
    assert text.count(f"without {name}") == sum(everyone_has_it)


def test_sets_are_shown_where_there_is_no_table_of_abstention(tmp_path):
    """One scan, or a network that is equally certain of all."""
    given = with_sets("three_classes")
    one = given.metrics.model_copy(update={"abstention": given.metrics.abstention[:1]})
    page = Page(write(tmp_path / "report.html", replace(given, metrics=one)))
    assert "How often the set of a scan contains the scan's class, by class" in page.text
    assert "left to a human" not in page.text


def test_a_record_without_calibration_by_class_or_tests_of_subgroups_is_shown(tmp_path):
    given = sample()
    calibration = given.metrics.calibration.model_copy(update={"classes": {}})
    whole = Subgroup(
        n=given.metrics.n_scans,
        n_patients=given.metrics.n_patients,
        balanced_accuracy=given.metrics.balanced_accuracy,
        macro_auc=given.metrics.macro_auc,
        sensitivity={name: one.sensitivity for name, one in given.metrics.classes.items()},
    )
    older = {"calibration": calibration, "subgroups": {"site": {"north": whole}}, "subgroup_tests": {}}
    page = Page(write(tmp_path / "report.html", replace(given, metrics=given.metrics.model_copy(update=older))))
    assert "By site" in page.text
    assert "Each class against the rest Class Brier score" not in page.text
