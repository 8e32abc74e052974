"""The first screen answers: what was asked, on whom, at which threshold, how many were found, did transfer help."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from report_samples import Page, evidence, metrics_of, sample, summary, write
from simulated_scores import findings, three_classes
from statsmodels.stats.proportion import proportion_confint

from med_transfer.metrics.records.decisions import ChosenPoint
from med_transfer.metrics.records.domain import Overlap
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.page import ENGLISH
from med_transfer.predictions.record import Prediction
from med_transfer.report.run_summary import cohort_name, origin, participant_flow
from med_transfer.report.sections.first_screen import section
from med_transfer.report.sections.first_screen_answers import brief, call_rule, detection, figures_of_the_run
from med_transfer.report.sections.first_screen_next import next_steps

DATA = three_classes()


def answers(metrics, **options):
    return dict(brief(evidence(DATA, metrics, **options), ENGLISH))


@pytest.mark.parametrize("kind", ["three_classes", "findings"])
def test_every_class_has_both_rates_in_words_with_the_intervals_of_its_counts(kind):
    metrics = sample(kind).metrics
    (table,) = section(sample(kind), ENGLISH).tables
    for (name, class_metrics), row in zip(metrics.classes.items(), table.cells, strict=True):
        assert row[0].text == name
        counts = class_metrics.counts
        for cell, hits, misses, said in (
            (row[1], counts.true_positive, counts.false_negative, r"found (\d+) of (\d+) scans"),
            (row[2], counts.true_negative, counts.false_positive, r"(\d+) false positives among the (\d+) other scans"),
        ):
            n = hits + misses
            low, high = proportion_confint(hits, n, method="wilson")
            assert cell.text == f"{100 * hits / n:.1f} %"
            assert cell.notes[0] == f"{100 * low:.1f} to {100 * high:.1f}"
            assert cell.bar == pytest.approx((low, hits / n, high))
            told, of = map(int, re.match(said, cell.notes[-1]).groups())
            assert (told, of) == (hits if cell is row[1] else misses, n)


def test_where_patients_have_several_scans_the_bar_is_of_patients():
    metrics = metrics_of(replace(DATA, patients=[f"p{n // 3}" for n in range(len(DATA.patients))]))
    (table,) = section(evidence(DATA, metrics), ENGLISH).tables
    assert table.caption.startswith("Bar: the interval over patients (†)")
    for row, class_metrics in zip(table.cells, metrics.classes.values(), strict=True):
        rate = class_metrics.sensitivity
        assert rate.ci95_cluster != rate.ci95
        assert row[1].bar == (rate.ci95_cluster[0], rate.value, rate.ci95_cluster[1])


def test_the_words_are_on_the_page(tmp_path):
    page = Page(write(tmp_path / "report.html", sample()))
    class_metrics = sample().metrics.classes["malignant"]
    counts = class_metrics.counts
    assert f"found {counts.true_positive} of {class_metrics.n} scans ({class_metrics.n_patients} patients)" in page.text
    n_other = counts.false_positive + counts.true_negative
    assert f"{counts.false_positive} false positives among the {n_other} other scans" in page.text
    for words in ("exactly one of ", "resnet18", "the most probable class; by a rule fixed before training"):
        assert words in page.text


def test_the_next_steps_are_those_of_the_gravest_limits_and_at_most_three():
    metrics = sample().metrics
    other = "Evaluate on patients from another hospital or a later period: med-transfer evaluate RUN OTHER.csv -o OUT."
    assert next_steps(evidence(DATA, metrics), ENGLISH) == [other]
    few = three_classes(24)
    failed = [Prediction("s", "p", status="failed", reason="truncated")]
    bad = metrics_of(few, failed=failed, baselines={"handcrafted": few.truth * 0.7 + 0.1})
    bad = bad.model_copy(update={"transfer_gain": metrics.transfer_gain.model_copy(update={"verdict": "harm"})})
    looked, backbone, collect = next_steps(evidence(few, bad), ENGLISH)
    assert "med-transfer inspect COHORT.csv" in looked
    assert "med-transfer select COHORT.csv" in backbone
    sizes = [one.sample_size["sensitivity"].n_needed_at_worst for one in bad.classes.values() if one.n < 10]
    assert sizes
    assert str(max(sizes)) in collect
    out_of_fold = metrics.model_copy(update={"out_of_fold": True})
    (step,) = next_steps(evidence(DATA, out_of_fold), ENGLISH)
    assert "report these figures as development results, not as test results" in step


def test_scans_that_were_seen_before_are_not_called_new():
    metrics = sample().metrics
    assert "held out from training" in answers(metrics)["Evaluated on"]
    overlap = Overlap(n_scans=120, n_patients=80, seen_scans=7, seen_patients=5)
    assert (
        "7 of the scans had been used to train the network"
        in answers(metrics.model_copy(update={"overlap": overlap}))["Evaluated on"]
    )


@pytest.mark.parametrize(
    ("point", "words"),
    [
        (OperatingPoint(), "the most probable class"),
        (OperatingPoint(rule="cost", costs={}), "the class with the lowest expected cost"),
        (
            OperatingPoint(rule="class_threshold", thresholds={"malignant": 0.1234}),
            "malignant from a probability of 0.123; otherwise the most probable of the other classes",
        ),
        (
            OperatingPoint(rule="threshold", thresholds={"a": 0.5, "b": 0.25}),
            "a from a probability of 0.5, b from a probability of 0.25",
        ),
    ],
)
def test_the_threshold_is_named(point, words):
    assert call_rule(point, ENGLISH) == words


def test_a_threshold_chosen_on_validation_scans_says_on_how_many():
    metrics = sample().metrics
    chosen = ChosenPoint(rule="youden", n_scans=40, n_patients=31, sensitivity={}, specificity={})
    point = OperatingPoint(rule="class_threshold", thresholds={"malignant": 0.3}, chosen_on="validation")
    metrics = metrics.model_copy(update={"operating_point": point, "chosen_point": chosen})
    assert "chosen on 40 validation scans of 31 patients" in answers(metrics)["Decision rule"]


def test_the_verdict_on_transfer_is_a_figure_with_its_interval():
    metrics = sample().metrics
    _, value, beneath = figures_of_the_run(evidence(DATA, metrics), ENGLISH)[3]
    assert value == f"{metrics.transfer_gain.macro_auc.value:+.3f}"
    assert beneath.endswith("transfer helped")
    without = evidence(DATA, metrics.model_copy(update={"transfer_gain": None}))
    assert figures_of_the_run(without, ENGLISH)[3][1:] == ("–", "not measured")


def test_a_verdict_stands_beside_the_difference_that_it_rests_on():
    metrics = sample().metrics
    gain = metrics.transfer_gain
    unclear = gain.macro_auc.model_copy(update={"value": 0.04, "ci95": (-0.02, 0.11)})
    clear = gain.balanced_sensitivity.model_copy(update={"value": 0.24, "ci95": (0.13, 0.36)})
    by_calls = gain.model_copy(update={"macro_auc": unclear, "balanced_sensitivity": clear, "verdict": "gain"})
    shown = figures_of_the_run(evidence(DATA, metrics.model_copy(update={"transfer_gain": by_calls})), ENGLISH)[3]
    assert shown[:2] == ("Transfer gain, balanced accuracy", "+0.240")
    neither = by_calls.model_copy(update={"balanced_sensitivity": unclear, "verdict": "none"})
    shown = figures_of_the_run(evidence(DATA, metrics.model_copy(update={"transfer_gain": neither})), ENGLISH)[3]
    assert shown[:2] == ("Transfer gain, macro AUC", "+0.040")
    behind = gain.macro_auc.model_copy(update={"value": -0.05, "ci95": (-0.1, -0.001)})
    against = by_calls.model_copy(update={"macro_auc": behind})
    shown = figures_of_the_run(evidence(DATA, metrics.model_copy(update={"transfer_gain": against})), ENGLISH)[3]
    assert shown[:2] == ("Transfer gain, balanced accuracy", "+0.240")  # not -0.050, "transfer helped"


def test_unusable_scans_are_counted_among_all_that_were_asked():
    failed = [Prediction("s", "p", status="failed", reason="truncated")] * 2
    metrics = metrics_of(DATA, failed=failed, transfer_gain=None, baselines={})
    run = summary(DATA, flow=participant_flow(DATA.patients, ["train"] * 80 + ["test"] * 40, ["x", "y"]))
    assert figures_of_the_run(evidence(DATA, metrics, run=run), ENGLISH)[4][1:] == ("2", "of 122 scans")
    assert figures_of_the_run(evidence(DATA, metrics), ENGLISH)[4][1:] == ("2", f"of {metrics.n_scans + 2} scans")


def test_a_finding_that_no_scan_has_is_said_so():
    data = findings()
    truth = data.truth.copy()
    truth[:, 0] = False
    metrics = metrics_of(
        type(data)(truth, data.probabilities, data.patients, data.labels), transfer_gain=None, baselines={}
    )
    name = data.labels.names[0]
    (table,) = section(evidence(DATA, metrics), ENGLISH).tables
    assert table.cells[0][1].undefined
    assert table.cells[0][1].bar is None
    assert "no scan" in table.cells[0][1].notes[0]
    assert detection(metrics.classes[name], ENGLISH)[0] == "found 0 of 0 scans (0 patients)"


def test_what_limits_the_claim_stands_before_everything_that_flatters_it(tmp_path):
    good = three_classes(signal=3)
    probabilities = good.probabilities.copy()
    probabilities[:, 1] = 0.3 * (1 - good.probabilities[:, 1])  # the more certain, the fewer
    others = good.probabilities[:, [0, 2]] / good.probabilities[:, [0, 2]].sum(axis=1, keepdims=True)
    probabilities[:, [0, 2]] = others * (1 - probabilities[:, [1]])
    data = type(good)(good.truth, probabilities, good.patients, good.labels)
    metrics = metrics_of(data, baselines={"handcrafted": good.probabilities})
    values = section(evidence(data, metrics), ENGLISH).values
    titles = [notice.title for notice in values["limits"]]
    chance = f"Worse than chance: {data.labels.names[1]}"
    assert titles[:2] == ["The network is worse than the handcrafted baseline", chance]
    others = [notice.title for notice in values["notices"]]
    text = Page(write(tmp_path / "report.html", evidence(data, metrics))).text
    places = [text.index(words) for words in (*titles, "Possible answers", "Macro AUC", *others)]
    assert places == sorted(places)


def test_cohort_run_and_date_are_on_the_first_screen(tmp_path, monkeypatch):
    (tmp_path / "lung-study").mkdir()
    monkeypatch.chdir(tmp_path / "lung-study")
    assert cohort_name(Path("cohort.csv")) == "lung-study"  # as the README types it
    assert cohort_name(Path("/cohort.csv")) == "cohort"
    before = datetime.now(UTC).date().isoformat()
    rows = origin(Path("cohort.csv"), run=Path("runs/first"))
    today = rows[-1][1]
    assert before <= today <= datetime.now(UTC).date().isoformat()
    assert rows == [("Cohort", "lung-study/cohort.csv"), ("Run", "first"), ("Date", today)]
    run = replace(sample().run, origin=rows)
    text = Page(write(tmp_path / "report.html", replace(sample(), run=run))).text
    assert text.index(f"Cohort lung-study/cohort.csv · Run first · Date {today}") < text.index("Summary")
    chinese = write(tmp_path / "zh.html", replace(sample(), run=replace(run, language="zh-TW")))
    assert "世代 lung-study/cohort.csv" in Page(chinese).text
