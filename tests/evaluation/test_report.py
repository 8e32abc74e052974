import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure
from simulated_scores import findings, three_classes

from med_transfer.errors import OutputError
from med_transfer.evaluation import evaluate
from med_transfer.evaluation.figures import sensitivity_forest
from med_transfer.evaluation.notices import notices
from med_transfer.evaluation.report import duration, write_report
from med_transfer.evaluation.run_summary import Count, LearningCurve, Miss, RunSummary, cohort_counts
from med_transfer.labels import Labels
from med_transfer.prediction import Prediction
from med_transfer.transfer.gain import transfer_gain

VOID = {"meta", "link", "img", "br", "hr", "input", "col", "area", "base", "embed", "source", "track", "wbr"}


class Page(HTMLParser):
    """What a browser would find: tags, what is loaded from where, text; tags must close in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words, self.references = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.references += [value for name, value in attrs if name in {"src", "href", "xlink:href", "srcset", "data"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"style"}:
            self.words.append(data)

    def having(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]


def picture():
    figure, stream = Figure(figsize=(1, 0.3)), io.BytesIO()
    figure.savefig(stream, format="png", dpi=30)
    return stream.getvalue()


def metrics_of(data, **options):
    n = len(data.patients)
    rng = np.random.default_rng(0)
    noise = rng.random((n, 3))
    noise = noise if data.labels.multilabel else noise / noise.sum(axis=1, keepdims=True)
    gain = transfer_gain(data.truth, data.probabilities, noise, data.patients, data.labels, n_boot=200)
    return evaluate(
        data.truth,
        data.probabilities,
        data.patients,
        data.labels,
        n_boot=200,
        **({"transfer_gain": gain, "baselines": {"handcrafted": noise, "prevalence": noise * 0 + 1 / 3}} | options),
    )


def summary(data, **options):
    splits = ["train", "val", "test"] * (len(data.patients) // 3)
    cohort = cohort_counts(data.truth, data.patients, splits, data.labels)
    return RunSummary(
        title="Nodules",
        question="Is the nodule malignant?",
        backbone="resnet18",
        backbone_licence="MIT",
        cohort=cohort,
        config=[("learning_rate", "0.0003")],
        seconds=75,
        software={"torch": "2.13"},
        model_card=[("Intended use", "research")],
        **options,
    )


CURVES = [
    LearningCurve(f"member {k}", [0, 1, 2], [1.0, 0.6, 0.4], [1.1, 0.8, 0.9], [0.5, 0.7, 0.65], "macro AUC", 1)
    for k in range(2)
]
MISSES = [Miss("scans/<b>7</b>", "benign", "malignant", 0.91, picture())]


def write(path, data, metrics, **options):
    options = {"run": summary(data), "curves": CURVES, "misses": MISSES} | options
    write_report(path, metrics=metrics, truth=data.truth, probabilities=data.probabilities, **options)
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("simulate", [three_classes, findings])
def test_the_report_holds_every_class_with_every_interval(tmp_path, simulate):
    data = simulate()
    metrics = metrics_of(data)
    page = Page(write(tmp_path / "report.html", data, metrics))
    for name, found in metrics.classes.items():
        assert name in page.text
        for rate in (found.sensitivity, found.specificity, found.ppv, found.npv):
            assert f"{100 * rate.value:.1f} %" in page.text
            assert f"{100 * rate.ci95[0]:.1f} to {100 * rate.ci95[1]:.1f}" in page.text
        assert f"{found.auc.ci95[0]:.3f} to {found.auc.ci95[1]:.3f}" in page.text
    assert ("Confusion matrix" in page.text) != data.labels.multilabel
    for words in ("Research use only, not a medical device", "Transfer helped", "200 draws, seed 0", "Is the nodule"):
        assert words in page.text


def test_the_report_loads_nothing_and_runs_nothing(tmp_path):
    data = three_classes()
    text = write(tmp_path / "report.html", data, metrics_of(data))
    page = Page(text)
    assert page.references
    assert all(reference.startswith(("#", "data:image/png;base64,")) for reference in page.references)
    assert not page.having("script")
    assert not re.search(r"url\((?!#)|@import|\bon\w+=", text)


def test_the_report_can_be_read_without_seeing_it(tmp_path):
    data = three_classes()
    page = Page(write(tmp_path / "report.html", data, metrics_of(data)))
    figures = page.having("svg")
    assert len(figures) == 5  # forest, ROC, reliability, two learning curves
    assert all(figure["role"] == "img" and len(figure["aria-label"]) > 20 for figure in figures)
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
    text = write(tmp_path / "report.html", named, metrics)
    page = Page(text)
    assert "<b>bold" not in text
    assert "<b>7" not in text
    for shown in ("<b>bold</b>", "scans/<b>7</b>", "<b>broken</b>", "<b>site</b>", "$x_1$", "结节"):
        assert shown in page.text


def test_equal_input_gives_an_equal_report(tmp_path):
    data = three_classes()
    metrics = metrics_of(data)
    assert write(tmp_path / "a.html", data, metrics) == write(tmp_path / "b.html", data, metrics)


def test_a_small_run_makes_a_report_with_undefined_measures(tmp_path):
    truth = np.eye(3, dtype=bool)[[0, 0, 1]]
    data = three_classes()
    small = type(data)(truth, np.full((3, 3), 1 / 3), ["a", "b", "c"], data.labels)
    metrics = evaluate(small.truth, small.probabilities, small.patients, small.labels, n_boot=50)
    run = summary(three_classes(3))
    page = Page(write(tmp_path / "report.html", small, metrics, run=run, curves=(), misses=()))
    assert "no scan of class malignant among the test scans" in page.text
    assert "Transfer gain was not measured" in page.text
    assert "malignant (0)" in page.text
    assert "Every test scan gave a prediction" in page.text


def test_without_probabilities_there_is_no_roc_curve(tmp_path):
    data = three_classes()
    write_report(tmp_path / "report.html", metrics=metrics_of(data), run=summary(data))
    assert "ROC curves" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_baseline_that_is_not_beaten_is_a_warning():
    data = three_classes(signal=0.3)
    better = three_classes(signal=3)
    found = {n.title: n for n in notices(metrics_of(data, baselines={"handcrafted": better.probabilities}))}
    assert found["The network does not beat the handcrafted baseline"].level == "warning"
    metrics = metrics_of(better)
    found = {n.title: n for n in notices(metrics)}
    assert found["The network beats the handcrafted baseline"].level == "good"
    unsure = metrics.baselines["handcrafted"].macro_auc_gain.model_copy(update={"value": 0.02, "ci95": (-0.01, 0.05)})
    doubtful = metrics.baselines["handcrafted"].model_copy(update={"macro_auc_gain": unsure})
    found = {n.title: n for n in notices(metrics.model_copy(update={"baselines": {"handcrafted": doubtful}}))}
    notice = found["The network is not shown to beat the handcrafted baseline"]
    assert notice.level == "warning"
    assert "+0.020 (95 % CI −0.010 to +0.050)" in notice.text


def test_failures_and_few_scans_are_warnings():
    data = three_classes(30)
    failed = [Prediction("s", status="failed", reason="truncated")]
    found = {n.title: n.text for n in notices(metrics_of(data, failed=failed))}
    assert "1 of 31 scans gave no prediction" in found
    few = [f"{name} ({n})" for name, n in zip(data.labels.names, data.truth.sum(0), strict=True) if n < 10]
    assert ", ".join(few) in found["Too few test scans to trust a rate"]


def test_cohort_counts_scans_and_patients():
    truth = np.eye(2, dtype=bool)[[0, 0, 1, 1]]
    counts = cohort_counts(truth, ["a", "a", "a", "b"], ["train", "train", "train", "test"], Labels(("x", "y")))
    assert counts["x"] == {"train": Count(2, 1), "val": Count(0, 0), "test": Count(0, 0)}
    assert counts["All"] == {"train": Count(3, 1), "val": Count(0, 0), "test": Count(1, 1)}


def test_a_figure_takes_its_colours_from_the_page():
    svg = sensitivity_forest(metrics_of(three_classes()))
    assert "var(--series-1)" in svg
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#ffffff", "#000000"}


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path):
    data = three_classes(30)
    (tmp_path / "file").write_text("old")
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(tmp_path / "file" / "report.html", metrics=metrics_of(data), run=summary(data))
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize(("seconds", "words"), [(12.4, "12 s"), (240, "4 min"), (7500, "2 h 05 min")])
def test_durations_read_well(seconds, words):
    assert duration(seconds) == words
