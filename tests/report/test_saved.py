"""A finished report is rewritten from its evidence: in another language, or to the same bytes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from report_samples import sample

from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.errors import UsageError
from med_transfer.errors.sentence import Sentence
from med_transfer.report.run_summary import participant_flow
from med_transfer.report.saved import EVIDENCE_FILE
from med_transfer.report.writing import write_again, write_report

HOW = Sentence("{n} folds, one network each, averaged", n=np.int64(5))
SPLIT = Sentence("by patient, stratified by class: a test part that nothing was chosen on; the rest in {how}", how=HOW)


def finished(kind, language):
    """A report with sentences in sentences, undefined measures and pictures."""
    given = sample(kind)
    flow = participant_flow(given.patients, ["test"] * len(given.patients), [])
    stopping = Sentence("strength {strength:g}, mixup {mixup:g}", strength=np.float64(1), mixup=0.25)
    run = replace(given.run, split=SPLIT, config=[("Augmentation", stopping)], flow=flow, language=language)
    accuracy = given.metrics.balanced_accuracy.model_copy(
        update={"value": None, "ci95": None, "reason": Sentence("no {scan} of this class", scan=Sentence("test scan"))}
    )
    return replace(given, run=run, metrics=given.metrics.model_copy(update={"balanced_accuracy": accuracy}))


@pytest.mark.parametrize("kind", ["three_classes", "findings"])
def test_written_again_it_is_what_it_would_have_been(tmp_path, command, kind):
    for language in ("en", "zh-TW"):
        write_report(tmp_path / language / "report.html", finished(kind, language))
    outcome = command("report", tmp_path / "en", "--language", "zh-TW", "-o", tmp_path / "again")
    assert (outcome.code, outcome.out) == (0, f"report: {tmp_path / 'again/report.html'}\n")
    expected = {file.relative_to(tmp_path / "zh-TW") for file in (tmp_path / "zh-TW").rglob("*.*")}
    assert {file.relative_to(tmp_path / "again") for file in (tmp_path / "again").rglob("*.*")} == expected
    for file in expected:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "zh-TW" / file).read_bytes(), file

    with sole_writer(tmp_path / "again"):
        refused = command("report", tmp_path / "en", "-o", tmp_path / "again")
    assert refused.code == 2
    assert "another run is active here" in refused.err

    before = (tmp_path / "en/report.html").read_bytes()
    write_again(tmp_path / "en", "zh-TW")
    assert (tmp_path / "en/report.html").read_bytes() == (tmp_path / "zh-TW/report.html").read_bytes()
    write_again(tmp_path / "en", "en")
    assert (tmp_path / "en/report.html").read_bytes() == before


def test_what_is_kept_names_no_patient(tmp_path):
    given = finished("three_classes", "en")
    named = [f"SECRET-{name}" for name in given.patients]
    write_report(tmp_path / "report.html", replace(given, patients=named))
    text = (tmp_path / EVIDENCE_FILE).read_text()
    assert "SECRET" not in text
    assert len(set(json.loads(text)["patients"])) == len(set(named))


def test_a_folder_without_it_is_refused_with_what_to_do(tmp_path, command):
    with pytest.raises(UsageError, match=r"evidence\.json: not there; expected a run or evaluation of this version"):
        write_again(tmp_path, "en")
    write_report(tmp_path / "report.html", sample())
    (tmp_path / EVIDENCE_FILE).write_text("{}")
    outcome = command("report", tmp_path)
    assert (outcome.code, "entries are of another version" in outcome.err) == (2, True)
    assert "the same finetune or evaluate again on that folder" in outcome.err.lower()
