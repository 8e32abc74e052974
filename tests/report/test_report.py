import re

import numpy as np
import pytest
from report_samples import Page, evidence, metrics_of, sample, summary, write
from simulated_scores import three_classes

from med_transfer.errors import OutputError
from med_transfer.metrics.compute_metrics import compute_metrics
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.metrics.records.metrics import Bootstrap
from med_transfer.page import ENGLISH
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.record import Prediction
from med_transfer.report.evidence import Evidence
from med_transfer.report.numbers import duration
from med_transfer.report.run_summary import ALL_CLASSES, Count, cohort_counts
from med_transfer.report.sections.curves import roc_curves
from med_transfer.report.writing import write_report


@pytest.mark.parametrize("kind", ["three_classes", "findings"])
def test_the_report_holds_every_class_with_every_interval(tmp_path, kind):
    metrics = sample(kind).metrics
    page = Page(write(tmp_path / "report.html", sample(kind)))
    for name, class_metrics in metrics.classes.items():
        assert name in page.text
        for rate in (class_metrics.sensitivity, class_metrics.specificity, class_metrics.ppv, class_metrics.npv):
            assert f"{100 * rate.value:.1f} %" in page.text
            assert f"{100 * rate.ci95[0]:.1f} to {100 * rate.ci95[1]:.1f}" in page.text
        assert f"{class_metrics.auc.ci95[0]:.3f} to {class_metrics.auc.ci95[1]:.3f}" in page.text
    assert ("Confusion matrix" in page.text) != metrics.multilabel
    for words in ("Research use only, not a medical device", "Transfer helped", "200 draws, seed 0", "Is the nodule"):
        assert words in page.text


def test_the_report_loads_nothing_and_runs_nothing(tmp_path):
    text = write(tmp_path / "report.html", sample())
    page = Page(text)
    assert page.references
    assert all(reference.startswith(("#", "data:image/jpeg;base64,")) for reference in page.references)
    assert not page.having("script")
    without_pictures = re.sub(r"(?<=;base64,)[\w+/=]+", "", text)
    assert not re.search(r"url\((?!#)|@import|\bon\w+=", without_pictures)


def test_the_report_can_be_read_without_seeing_it(tmp_path):
    page = Page(write(tmp_path / "report.html", sample()))
    figures = page.having("svg")
    assert len(figures) == 4  # ROC, reliability, net benefit, learning curves
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert all(figure["role"] == "img" for figure in figures)
    assert all(set(figure["aria-labelledby"].split()) <= ids for figure in figures)
    assert all(image["alt"] for image in page.having("img"))
    assert all(cell.get("scope") for cell in page.having("th") if cell)
    assert page.having("html")[0]["lang"] == "en"
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.having("a")} <= set(ids)


def test_names_are_escaped_everywhere(tmp_path):
    labels = Labels(('<b>bold</b> & "q"', "$x_1$", "结节"))
    data = three_classes()
    named = type(data)(data.truth, data.probabilities, data.patients, labels)
    failed = [Prediction("s", status="failed", reason="<b>broken</b>")]
    metrics = metrics_of(named, failed=failed, subgroups={"<b>site</b>": ["<b>1</b>"] * 120})
    text = write(tmp_path / "report.html", evidence(named, metrics))
    page = Page(text)
    assert "<b>bold" not in text
    assert "<b>7" not in text
    for shown in ("<b>bold</b>", "<b>7</b>", "<b>broken</b>", "<b>site</b>", "$x_1$", "结节"):
        assert shown in page.text


def test_equal_input_gives_an_equal_report(tmp_path):
    assert write(tmp_path / "a.html", sample()) == write(tmp_path / "b.html", sample())


def test_a_small_run_makes_a_report_with_undefined_measures(tmp_path):
    truth = np.eye(3, dtype=bool)[[0, 0, 1]]
    data = three_classes()
    small = type(data)(truth, np.full((3, 3), 1 / 3), ["a", "b", "c"], data.labels)
    metrics = compute_metrics(
        LabelledPredictions.of(small.truth, small.probabilities, small.patients, small.labels),
        resampling=Bootstrap(n_boot=50),
    )
    run = summary(three_classes(3))
    page = Page(write(tmp_path / "report.html", evidence(small, metrics, run=run, curves=(), misses=())))
    assert "no scan of class malignant among the evaluated scans" in page.text
    assert "Transfer gain was not measured" in page.text
    assert "malignant (0)" in page.text
    assert "Every scan gave a prediction" in page.text


def test_without_probabilities_there_is_no_roc_curve(tmp_path):
    assert "ROC curves" not in write(tmp_path / "report.html", Evidence(sample().metrics, sample().run))


def test_cohort_counts_scans_and_patients():
    truth = np.eye(2, dtype=bool)[[0, 0, 1, 1]]
    counts = cohort_counts(truth, ["a", "a", "a", "b"], ["train", "train", "train", "test"], Labels(("x", "y")))
    assert counts["x"] == {"train": Count(2, 1), "val": Count(0, 0), "test": Count(0, 0)}
    assert counts[ALL_CLASSES] == {"train": Count(3, 1), "val": Count(0, 0), "test": Count(1, 1)}


def test_a_class_may_be_called_all(tmp_path):
    data, labels = three_classes(30), Labels(("All", "x", "y"))
    counts = cohort_counts(data.truth, data.patients, ["test"] * 30, labels)
    write(tmp_path / "report.html", evidence(data, sample().metrics, run=summary(data, cohort=counts)))
    rows = (tmp_path / "report_files" / "tables" / "flow-cohort.csv").read_text("utf-8-sig").splitlines()
    n = str(data.truth[:, 0].sum())
    assert [row.split(",")[0] for row in rows[1:]] == ["All", "x", "y", "All"]
    assert (rows[1].split(",")[-2], rows[4].split(",")[-2]) == (n, "30")


@pytest.mark.parametrize("n_classes", [3, 18, 40])
def test_the_names_of_many_classes_stand_within_the_figure_and_not_on_its_curves(n_classes):
    rng = np.random.default_rng(0)
    truth = rng.random((60, n_classes)) < 0.4
    probabilities = rng.random((60, n_classes))
    labels = Labels(tuple(f"finding number {c}" for c in range(n_classes)), multilabel=True)
    predictions = LabelledPredictions.of(truth, probabilities, [f"p{n}" for n in range(60)], labels)
    metrics = compute_metrics(predictions, resampling=Bootstrap(n_boot=20))
    figure = roc_curves(truth, probabilities, metrics, ENGLISH)
    places = re.findall(r'transform="translate\(([\d.]+) ([-\d.]+)\)">finding number', figure.drawing)
    heights = [float(y) for _, y in places] or [
        float(y) for y in re.findall(r'<text [^>]*y="([-\d.]+)"[^>]*>finding number', figure.drawing)
    ]
    axis = max(float(y) for y in re.findall(r'<text [^>]*y="([-\d.]+)"[^>]*>[^<]*false positive', figure.drawing))
    assert len(heights) == n_classes
    assert all(0 < y < figure.size[1] for y in heights)
    assert min(heights) > axis


def test_each_roc_curve_has_a_dot_at_its_operating_point_if_both_rates_are_known():
    data, metrics = three_classes(), sample().metrics
    unknown = Estimate(value=None, ci95=None, method="Wilson", reason="no scan")
    names = list(metrics.classes)
    lacking = metrics.classes | {names[0]: metrics.classes[names[0]].model_copy(update={"specificity": unknown})}
    for classes, having in ((metrics.classes, names), (lacking, names[1:])):
        shown = metrics.model_copy(update={"classes": classes})
        drawing = roc_curves(data.truth, data.probabilities, shown, ENGLISH).drawing
        marks = np.array(re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', drawing), float)
        across, up, dots = marks[:6, 0], marks[6:12, 1], marks[12:]  # ticks at 0, 0.2 ... 1, then the dots
        rates = [(1 - classes[name].specificity.value, classes[name].sensitivity.value) for name in having]
        found = (dots - (across[0], up[0])) / (across[5] - across[0], up[5] - up[0])
        np.testing.assert_allclose(found, rates, atol=1e-4)


def test_tables_and_figures_are_files_of_their_own(tmp_path):
    write(tmp_path / "report.html", sample())
    tables = {path.name for path in (tmp_path / "report_files" / "tables").iterdir()}
    figures = {path.name for path in (tmp_path / "report_files" / "figures").iterdir()}
    assert {"first_screen-sensitivity.csv", "rates-by-class.csv", "confusion-matrix.csv"} <= tables
    assert figures == {
        "curves-roc.svg",
        "calibration-reliability.svg",
        "decision_curve-net-benefit.svg",
        "training-curves.svg",
    }


def test_files_of_an_earlier_report_do_not_stay(tmp_path):
    write(tmp_path / "report.html", sample())
    (tmp_path / "report_files" / "notes.txt").write_text("mine")
    write(tmp_path / "report.html", Evidence(sample().metrics, sample().run))
    assert not (tmp_path / "report_files" / "figures" / "curves-roc.svg").exists()
    assert (tmp_path / "report_files" / "notes.txt").read_text() == "mine"


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(tmp_path / "file" / "report.html", sample())
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize(("seconds", "words"), [(12.4, "12 s"), (240, "4 min"), (7500, "2 h 05 min")])
def test_durations_read_well(seconds, words):
    assert duration(seconds) == words
