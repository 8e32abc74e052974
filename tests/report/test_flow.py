"""The flow diagram counts the run's own scans and patients, and adds up."""

import functools
import re
from pathlib import Path

import numpy as np
import pytest
from report_samples import Page, evidence, metrics_of, sample, summary, write
from simulated_scores import three_classes

from med_transfer.cohorts import Case, without_prediction
from med_transfer.errors import GeometryRejected, UnreadableScan
from med_transfer.page import ENGLISH
from med_transfer.report.run_summary import Count, participant_flow
from med_transfer.report.sections import flow_diagram as flow_diagram_module
from med_transfer.report.sections.flow_diagram import Box, flow_diagram, wrapped
from med_transfer.report.writing import report_translator

DATA = three_classes()
N = len(DATA.patients)


def case(number, patient):
    return Case(f"scans/{number}", Path(f"scans/{number}"), patient, None)


FAILED = [
    without_prediction(case(1, "gone"), GeometryRejected("3 slices are missing", where="scans/1", expected="none")),
    without_prediction(case(2, DATA.patients[0]), UnreadableScan("truncated", where="scans/2")),
    without_prediction(case(3, "gone"), GeometryRejected("3 slices are missing", where="scans/3", expected="less")),
]


@functools.cache
def metrics():
    return metrics_of(DATA, failed=FAILED, transfer_gain=None, baselines={})


def with_flow(splits, n_networks=1):
    flow = participant_flow(DATA.patients, splits, [prediction.patient for prediction in FAILED], n_networks)
    return evidence(DATA, metrics(), run=summary(DATA, flow=flow)), flow


def test_scans_and_patients_add_up():
    patients, splits = ["a", "a", "b", "c", "d"], ["train", "train", "val", "test", "test"]
    flow = participant_flow(patients, splits, ["a", "e"])
    assert flow.found == Count(7, 5)
    assert flow.excluded == Count(2, 1)  # a has scans left, e has none
    assert flow.used == Count(5, 4)
    assert flow.parts == {"train": Count(2, 1), "val": Count(1, 1), "test": Count(2, 2)}
    assert sum(part.scans for part in flow.parts.values()) == flow.used.scans


@pytest.mark.parametrize("seed", range(5))
def test_parts_always_add_up_to_what_was_used(seed):
    rng = np.random.default_rng(seed)
    part = rng.choice(["train", "val", "test"], 30)
    patient = rng.integers(0, 30, 60)
    flow = participant_flow([f"p{k}" for k in patient], list(part[patient]), [f"p{k}" for k in rng.integers(0, 60, 9)])
    assert sum(count.scans for count in flow.parts.values()) == flow.used.scans == 60
    assert sum(count.patients for count in flow.parts.values()) == flow.used.patients


def test_the_diagram_of_a_run_says_all_of_it():
    given, flow = with_flow(["train", "val", "test"] * (N // 3))
    spoken = flow_diagram(flow, given, ENGLISH).description
    assert f"In the cohort table: {N + 3} scans, {flow.found.patients} patients" in spoken
    assert "Excluded: 3 scans, 1 patient: 3 slices are missing (2); truncated (1)" in spoken
    for name in ("Training", "Validation", "Test"):
        assert f"{name}: {N // 3} scans" in spoken
    for row, (name, class_metrics) in enumerate(given.metrics.classes.items()):
        assert (
            f"Truly {name}: {class_metrics.n} scans, {class_metrics.n_patients} patients: "
            f"called {name} {class_metrics.counts.true_positive}" in spoken
        )
        for other, n in zip(given.metrics.labels, given.metrics.confusion_matrix[row], strict=True):
            assert n == 0 or f"{other} {n}" in spoken


def test_a_bundle_that_was_evaluated_alone_has_no_parts(tmp_path):
    given, flow = with_flow(["test"] * N)
    spoken = flow_diagram(flow, given, ENGLISH).description
    assert "Evaluated" in spoken
    assert "Training" not in spoken
    page = Page(write(tmp_path / "report.html", given))
    assert f"3 of {N + 3} scans gave no prediction. They are excluded from all rates in this report." in page.text


def test_folds_are_one_development_part():
    given, flow = with_flow(["train", "train", "test"] * (N // 3), n_networks=5)
    assert "Development, 5 folds" in flow_diagram(flow, given, ENGLISH).description


def test_of_a_run_nobody_knows_which_part_an_unusable_scan_had_gone_to(tmp_path):
    given, _ = with_flow(["train", "val", "test"] * (N // 3))
    page = Page(write(tmp_path / "report.html", given))
    assert f"3 of the {N + 3} scans in the cohort table could not be used. They were excluded before" in page.text
    assert (tmp_path / "report_files" / "figures" / "flow-diagram.svg").exists()


def test_the_table_of_reasons_is_set_as_text_because_reasons_are_sentences(tmp_path):
    given, _ = with_flow(["test"] * N)
    tags = Page(write(tmp_path / "report.html", given)).tags
    (place,) = (n for n, (_, attrs) in enumerate(tags) if attrs.get("aria-labelledby", "").endswith("failed-caption"))
    assert tags[place + 1] == ("table", {"class": "text"})


def test_findings_are_told_in_two_by_two_numbers():
    given = sample("findings")
    patients = given.patients
    flow = participant_flow(patients, ["test"] * len(patients), [])
    spoken = flow_diagram(flow, given, ENGLISH).description
    counts = next(iter(given.metrics.classes.values())).counts
    assert "Excluded: none" in spoken
    assert (
        f"found {counts.true_positive}, missed {counts.false_negative}; wrongly found in {counts.false_positive}"
        in spoken
    )


def test_equal_findings_count_together():
    tilted, less = (GeometryRejected("tilt 4.5", where="scans/1", expected=expected) for expected in ("none", "less"))
    cut_off = UnreadableScan("cut off", where="scans/1/0.dcm", action="Export it again")
    failed = [without_prediction(case(1, "p"), error) for error in (tilted, cut_off, cut_off, less, less)]
    counted = metrics_of(DATA, failed=failed, transfer_gain=None, baselines={}).failed
    assert counted.reasons == {
        "tilt 4.5; expected none.": 1,
        "cut off. Export it again.": 2,
        "tilt 4.5; expected less.": 2,
    }
    assert counted.found == {"tilt 4.5": 3, "cut off": 2}


def test_lines_fit_and_lose_nothing():
    text = "a series of words, some/long/path/without/any/space, and 中文字也要能換行因為沒有空格"
    lines = wrapped(text, 12)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(sum(1.0 if ord(c) > 0x2E80 else 0.54 for c in line) <= 17 for line in lines)
    lists = [line for widest in range(3, 12) for line in wrapped("判定為 benign 43、malignant 4", widest)]
    assert not any(line.startswith("、") for line in lists)  # which no line of Chinese begins with
    assert Box(0, 1, 2, ["a", "b"]).bottom > 1 + 2 * 0.165


def test_the_diagram_is_translated():
    given, flow = with_flow(["train", "val", "test"] * (N // 3))
    spoken = flow_diagram(
        flow, given, report_translator("zh-TW").reading(Path(flow_diagram_module.__file__).with_name("flow"))
    ).description
    assert "世代表中" in spoken
    assert not re.search(r"\b(scans|patients|called|Excluded)\b", spoken)
