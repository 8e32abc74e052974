"""The page on the operating point, its lock, and how often the test set was read."""

import csv
import re
from dataclasses import replace

import numpy as np
import pytest
from report_samples import Page, evidence, metrics_of, sample, summary, write
from simulated_scores import findings, three_classes

from med_transfer.finetuning.decisions.config import OperatingPointConfig
from med_transfer.finetuning.decisions.operating_point_selection import choose_point
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.decisions import AccessCounts
from med_transfer.metrics.records.fusion import FusionMetrics
from med_transfer.report.evidence import Evidence
from med_transfer.report.run_summary import cohort_counts
from med_transfer.report.sections.first_screen_trust import trust_notices

DATA, VALIDATION = three_classes(240), three_classes(90)
HASH = "0123456789abcdef" * 4
COSTS = {
    "healthy": {"benign": 1, "malignant": 2},
    "benign": {"healthy": 1, "malignant": 1.5},
    "malignant": {"healthy": 20, "benign": 9},
}


def accessed(n=1, **changes):
    return AccessCounts(**{"n": n, "own": True, "lock_hash": HASH, "cohort_hash": "c"} | changes)


def decided(data=DATA, validation=VALIDATION, *, counts=None, n_networks=1, **config):
    """Metrics of a run whose operating point was chosen on other scans; without decision curves, which each page would
    draw and no test reads."""
    wanted = OperatingPointConfig.model_validate(config)
    scans = LabelledPredictions.of(validation.truth, validation.probabilities, validation.patients, validation.labels)
    point, reached = choose_point(wanted, scans, n_networks=n_networks)
    metrics = metrics_of(data, operating_point=point)
    known = {"chosen_point": reached, "test_set_access": counts or accessed(), "decision_curves": {}}
    return metrics.model_copy(update=known)


def rows_of(folder, table):
    with (folder / f"report_files/tables/{table}.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_one_scan_of_one_patient_is_in_the_singular(tmp_path):
    metrics = decided(rule="sensitivity", at_least=0.9, **{"class": "malignant"})
    lone = metrics.chosen_point.model_copy(update={"n_scans": 1, "n_patients": 1})
    page = Page(write(tmp_path / "report.html", evidence(DATA, metrics.model_copy(update={"chosen_point": lone}))))
    assert page.text.count("1 validation scan of 1 patient") == 3
    assert not re.search(r"\b1 (validation scans|patients)", page.text)


def test_the_section_tells_aim_threshold_what_was_reached_and_the_lock(tmp_path):
    metrics = decided(rule="sensitivity", at_least=0.9, n_networks=5, **{"class": "malignant"})
    reached = metrics.chosen_point.sensitivity["malignant"]
    page = Page(write(tmp_path / "report.html", evidence(DATA, metrics)))
    for words in (
        "sensitivity of malignant at least 90 %",
        "90 validation scans of 90 patients",
        HASH,
        "The run's own test set was read once",
        f"{100 * reached.value:.1f} %",
        f"{100 * reached.ci95[0]:.1f} to {100 * reached.ci95[1]:.1f}",
        "by the mean of 5",
        "Only the test scans count",
    ):
        assert words in page.text, words
    healthy, _, row = rows_of(tmp_path, "operating_point-reached")
    assert row["Class"] == "malignant"
    assert float(row["Threshold"]) == metrics.operating_point.thresholds["malignant"]
    assert float(row["Sensitivity, validation"]) == reached.value
    assert float(row["Sensitivity, test"]) == metrics.classes["malignant"].sensitivity.value
    assert healthy["Threshold"] == ""


def test_out_of_fold_nothing_is_said_of_test_scans(tmp_path):
    metrics = decided(rule="youden", n_networks=5).model_copy(update={"out_of_fold": True, "test_set_access": None})
    text = Page(write(tmp_path / "report.html", evidence(DATA, metrics))).text
    section = text[
        text.index("What was decided for the bundle") : text.index(
            "Learning curves", text.index("What was decided for the bundle")
        )
    ]
    assert "for each scan here, the same was decided on other patients" in section
    assert "Sensitivity, out of fold" in section
    assert "out-of-fold figures use thresholds chosen on other patients" in section
    assert "test scans" not in section
    assert "called by one network" not in section


def test_out_of_fold_a_rule_that_was_fixed_has_no_scans_that_it_was_decided_on(tmp_path):
    metrics = decided(n_networks=5).model_copy(update={"out_of_fold": True, "test_set_access": None})
    text = Page(write(tmp_path / "report.html", evidence(DATA, metrics))).text
    assert "no scan: the rule was stated before training" in text
    assert "that it was decided on" not in text
    assert "a threshold was chosen on" not in text


def test_validation_rates_of_the_network_do_not_stand_beside_test_rates_of_the_fused_model(tmp_path):
    fusion = FusionMetrics(
        use=["network", "handcrafted"],
        columns=[],
        report="fused",
        n_scans=240,
        n_patients=240,
        n_fitted=90,
        n_fitted_patients=90,
        inverse_penalty=1.0,
    )
    metrics = decided(n_networks=5)
    for report, shown in (("image", True), ("fused", False)):
        told = metrics.model_copy(update={"fusion": fusion.model_copy(update={"report": report})})
        text = Page(write(tmp_path / "report.html", evidence(DATA, told))).text
        assert ("Sensitivity, validation" in text) == shown
        assert ("Only the test scans count" in text) == shown
        assert "the class with the strongest evidence, however rare it is" in text


def test_an_undecided_report_says_nothing_of_it(tmp_path):
    assert "Operating point</h3>" not in write(tmp_path / "report.html", sample())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {},
            (
                "the class with the strongest evidence, however rare it is",
                "no scan: the rule was stated before training; its numbers",
            ),
        ),
        ({"rule": "argmax"}, ("the most probable class, or findings at 0.5", "no scan: stated before training")),
        ({"rule": "youden"}, ("specificity − 1 of each class against the rest (Youden 1950)",)),
        ({"rule": "thresholds", "thresholds": {"benign": 0.2}}, ("thresholds stated before training", "0.2")),
        (
            {"rule": "cost", "costs": COSTS},
            ("lowest expected cost (Elkan 2001)", "Cost of calling a scan (column) when it is (row)", "1.5", "20"),
        ),
    ],
)
def test_every_rule_is_told(tmp_path, config, words):
    page = Page(write(tmp_path / "report.html", evidence(DATA, decided(**config))))
    assert all(word in page.text for word in words)
    assert "by the mean of" not in page.text


def test_findings_have_a_threshold_each_and_few_cases_are_warned_of(tmp_path):
    data = findings()
    few = type(data)(*(part[:12] for part in (data.truth, data.probabilities, data.patients)), data.labels)
    metrics = decided(data, few, rule="sensitivity", at_least=0.95)
    page = Page(write(tmp_path / "report.html", evidence(data, metrics)))
    assert "sensitivity of every finding at least 95 %" in page.text
    (first, *_) = metrics.chosen_point.warnings
    assert f"{first[0].upper()}{first[1:]}." in page.text


def test_a_bundle_that_does_not_tell_how_it_was_chosen_still_tells_its_test_set_access(tmp_path):
    metrics = metrics_of(DATA).model_copy(
        update={"test_set_access": accessed(2, own=None, lock_hash="", n_other_decisions=0)}
    )
    page = Page(write(tmp_path / "report.html", evidence(DATA, metrics)))
    assert "not locked: the bundle predates locks" in page.text
    assert "The test set was read 2 times, each time with the same decisions" in page.text
    assert "on validation scans" not in page.text


@pytest.mark.parametrize(
    ("counts", "title", "text"),
    [
        (accessed(2), "The run's own test set was read 2 times", "Each time with the same decisions."),
        (
            accessed(3, n_other_decisions=2),
            "The run's own test set was read 3 times",
            "2 of the earlier times with different decisions.",
        ),
        (
            accessed(3, n_other_decisions=2, n_other_operating_points=1),
            "The run's own test set was read 3 times",
            "1 of the earlier times with a different operating point.",
        ),
        (accessed(2, own=False), "The test set was read 2 times", "Each time with the same decisions."),
    ],
)
def test_more_than_one_access_is_a_warning_on_the_first_screen(counts, title, text):
    metrics = metrics_of(DATA).model_copy(update={"test_set_access": counts})
    (notice,) = trust_notices(Evidence(metrics, sample().run))
    assert (notice.level, notice.title) == ("warning", title)
    assert notice.text.startswith(text)
    assert counts.sentence.lower().startswith(title.lower())
    once = metrics.model_copy(update={"test_set_access": accessed()})
    assert trust_notices(Evidence(once, sample().run)) == []


def test_in_chinese_nothing_of_it_is_left_in_english(tmp_path):
    metrics = decided(rule="youden", counts=accessed(3, n_other_decisions=1, n_other_operating_points=1))
    run = replace(summary(DATA), language="zh-TW", cross_validated=True)
    page = Page(write(tmp_path / "report.html", evidence(DATA, metrics, run=run)))
    for words in (
        "此次執行自己的測試集讀取過 3 次",
        "先前有 1 次使用其他操作點",
        "90 位病人的 90 次驗證掃描",
        "各驗證一次",
    ):
        assert words in page.text
    assert "was read" not in page.text


def test_with_cross_validation_every_development_scan_validates_once(tmp_path):
    splits = np.array(["train"] * 160 + ["test"] * 80)
    run = summary(DATA)
    cohort = cohort_counts(DATA.truth, DATA.patients, splits.tolist(), DATA.labels)
    write(tmp_path / "folds.html", evidence(DATA, metrics_of(DATA), run=replace(run, cohort=cohort)))
    assert list(rows_of(tmp_path, "flow-cohort")[-1].values()) == ["All", *["160", "160", "0", "0", "80", "80"]]
    text = write(
        tmp_path / "folds.html",
        evidence(DATA, metrics_of(DATA), run=replace(run, cohort=cohort, cross_validated=True)),
    )
    assert Page(text).text.count("each once") == 4
    assert list(rows_of(tmp_path, "flow-cohort")[-1].values()) == ["All", *["160", "160", "160", "160", "80", "80"]]
