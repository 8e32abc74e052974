"""A bundle judged on another cohort: an external validation, or a second look at the run's own test patients."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from med_transfer.bundle import BundleRecord, load_network, read_record, versions
from med_transfer.cohorts import Cohort, Images, PreparedCohort, prepare_cohort, seen_before
from med_transfer.errors import PatientLeak
from med_transfer.evaluation import Metrics, prevalence_only
from med_transfer.judgement import assess, judge
from med_transfer.model_card import model_card_rows
from med_transfer.page import Language
from med_transfer.preprocessing import Preprocessing
from med_transfer.progress import Progress, silent
from med_transfer.report.run_summary import RunSummary, cohort_counts
from med_transfer.subgroup_columns import check_subgroups


def evaluate_bundle(
    bundle: Path | str, cohort: Path | str | Cohort, out: Path | str, progress: Progress = silent, *,
    subgroups: Sequence[str] | None = None, language: Language = "en",
) -> Metrics:  # fmt: skip
    """Predict a labelled cohort and write predictions.csv, metrics.json and report.html.

    Args:
        bundle: a bundle folder, or the run folder that holds one.
        cohort: the table; its classes must be the bundle's.
        out: folder to write to.
        progress: told how far it is.
        subgroups: columns to measure by; None: every suitable one.
        language: of the report.

    Raises:
        UsageError: no such column.
        PatientLeak: a patient or a scan that the bundle was trained on.
        CohortError, BundleError, NothingDone, OutputError: as their names say.
    """
    started, out = time.monotonic(), Path(out)
    folder = Path(bundle) / "bundle" if (Path(bundle) / "bundle").is_dir() else Path(bundle)
    record = read_record(folder)
    cohort = cohort if isinstance(cohort, Cohort) else Cohort.read(cohort, labels=record.labels)
    check_subgroups(cohort, subgroups)
    _refuse_what_was_trained_on(record, cohort, [()] * len(cohort))  # by patient, before anything is read
    prepared = prepare_cohort(
        cohort, Preprocessing(record.preprocessing), out / "prepared",
        progress=lambda done, total: progress("reading scans", done, total),
    )  # fmt: skip
    _refuse_what_was_trained_on(record, prepared.cohort, prepared.content_hashes)
    probabilities, novelty = assess(load_network(folder), prepared)
    return judge(
        record, prepared, probabilities, novelty, out, _summary(record, prepared, time.monotonic() - started, language),
        baselines={"prevalence": prevalence_only(prepared.cohort.truth, len(prepared.scans))}, subgroups=subgroups,
    )  # fmt: skip


def _refuse_what_was_trained_on(record: BundleRecord, cohort: Cohort, content_hashes: Sequence[Images]) -> None:
    known = record.trained_on
    seen = seen_before(cohort, content_hashes, known.patient_hashes, known.content_hashes)
    if seen:
        named = ", ".join(str(cohort.cases[i]) for i in seen[:5])
        raise PatientLeak(
            f"the bundle was trained on {len(seen)} of these scans or their patients: {named}",
            where=cohort.path or "", expected="patients that the bundle never saw", action="Leave those rows out",
        )  # fmt: skip


def _summary(record: BundleRecord, prepared: PreparedCohort, seconds: float, language: Language) -> RunSummary:
    cohort = prepared.cohort
    return RunSummary(
        title=f"{cohort.path.parent.name if cohort.path else 'cohort'}: external evaluation",
        question=f"Which of {', '.join(record.classes)}?",
        backbone=record.backbone.name,
        backbone_licence=record.backbone.licence,
        cohort=cohort_counts(cohort.truth, cohort.patients, ["test"] * len(prepared.scans), cohort.labels),
        split="not at all: no patient of this cohort was used in training (the bundle remembers whom it saw)",
        seconds=seconds,
        software=versions(),
        model_card=model_card_rows(record),
        language=language,
    )
