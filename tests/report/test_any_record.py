"""Reports of records as they may come: few scans, absent classes, odd names; in both languages the same numbers."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from report_samples import Page, evidence, metrics_of, summary, write
from simulated_scores import Simulated

from med_transfer.predictions.labels import Labels
from med_transfer.predictions.record import Prediction
from med_transfer.report.run_summary import cohort_counts, participant_flow

STEM = "a class whose name is longer than a label beside an axis, "
NAMES = ("良性結節", "<b>bold</b>", f"{STEM}x", f"{STEM}y", "{name}", "none", "All", "$x^2$", "50 %")
TWO_BY_TWO = {"2"}  # a word in English, digits in Chinese


def simulated(rng):
    """Scans of few patients, with any number of each class."""
    n_classes, n_scans = int(rng.integers(2, 5)), int(rng.choice([1, 2, 5, 12, 40]))
    labels = Labels(tuple(rng.permutation(NAMES)[:n_classes].tolist()), multilabel=bool(rng.random() < 0.4))
    truth = np.eye(n_classes, dtype=bool)[rng.choice(n_classes, n_scans, p=rng.dirichlet(np.ones(n_classes)))]
    if labels.multilabel:
        truth = rng.random((n_scans, n_classes)) < rng.choice([0, 0.1, 0.5, 1], n_classes)
    scores = 1 / (1 + np.exp(-rng.choice([0, 1, 5]) * truth - rng.normal(size=truth.shape)))
    scores = scores if labels.multilabel else scores / scores.sum(axis=1, keepdims=True)
    scans_of_patient = int(rng.choice([1, 3]))
    return Simulated(truth, scores, [f"p{k // scans_of_patient}" for k in range(n_scans)], labels)


def of_record(seed):
    """Evidence on scans that were evaluated together: their truth and answers, and those that failed."""
    rng = np.random.default_rng(seed)
    data, n_failed = simulated(rng), int(rng.integers(0, 3))
    tests, site = ["test"] * len(data.patients), rng.choice(["a", "b", "", "not known"], len(data.patients)).tolist()
    options = {"transfer_gain": None} if rng.random() < 0.5 else {}
    metrics = metrics_of(
        data,
        known={"out_of_fold": bool(rng.random() < 0.3)},
        failed=[Prediction("s", status="failed", reason="truncated")] * n_failed,
        subgroups={"<i>年齡": rng.integers(20, 90, len(data.patients)).astype(str).tolist(), "site": site},
        **options,
    )
    run = summary(
        data,
        cohort=cohort_counts(data.truth, data.patients, tests, data.labels),
        flow=participant_flow(data.patients, tests, ["gone"] * n_failed),
    )
    return evidence(data, metrics, run=run)


@pytest.mark.parametrize("seed", range(4))
def test_both_languages_say_the_same_numbers_and_none_that_is_no_number(seed, tmp_path):
    given = of_record(seed)
    english = Page(write(tmp_path / "en" / "report.html", given))
    chinese = Page(write(tmp_path / "zh" / "report.html", replace(given, run=replace(given.run, language="zh-TW"))))
    numbers = [Counter(re.findall(r"\d+(?:\.\d+)?", page.text)) for page in (english, chinese)]
    assert {text for text in numbers[0] | numbers[1] if numbers[0][text] != numbers[1][text]} <= TWO_BY_TWO
    for page in (english, chinese):
        assert not re.search(r"\b(?:nan|inf)\b", page.text)
        assert "<b>bold</b>" in page.text or "<b>bold</b>" not in given.metrics.labels
