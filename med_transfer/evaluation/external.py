"""Evaluate a bundle on another cohort, as external validation, or again on the run's own test patients."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.bundle import (
    BundleRecord,
    bundle_folder,
    load_network,
    read_record,
    run_folder,
    versions,
)
from med_transfer.bundle.model_card import model_card_rows
from med_transfer.bundle.provenance import seen_in_training
from med_transfer.bundle.signature import verify_bundle
from med_transfer.cohorts import (
    Cohort,
    Images,
    PreparedCohort,
    labelled_scans_hash,
    prepare_cohort,
    warn_of_other_spellings,
)
from med_transfer.errors import PatientLeak, UsageError, given_path
from med_transfer.errors.sentence import Sentence, few
from med_transfer.evaluation.evaluate import EvaluationInput, as_development, evaluate, predict
from med_transfer.evaluation.evaluation_record import EvaluationRecord
from med_transfer.evaluation.subgroup_columns import check_subgroups
from med_transfer.evaluation.test_access_log import ACCESS_LOG_FILE, Access, record_access
from med_transfer.explanation.config import MAX_GALLERY, ExplainConfig
from med_transfer.metrics.baselines import cross_validate_baselines
from med_transfer.metrics.compute_metrics import PREVALENCE_BASELINE, KnownFigures
from med_transfer.metrics.config import EvaluationConfig, checked_prevalence
from med_transfer.metrics.domain import AcquiredScans, domain_of, profile_of
from med_transfer.metrics.records.decisions import AccessCounts
from med_transfer.metrics.records.domain import Domain, Overlap
from med_transfer.metrics.records.metrics import Metrics
from med_transfer.model.ensemble import Ensemble
from med_transfer.page import Language
from med_transfer.page.language import translator
from med_transfer.preprocessing import Preprocessing
from med_transfer.progress import Progress, log_file, silent
from med_transfer.report.run_summary import RunSummary, cohort_counts, cohort_name, origin, participant_flow

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationSettings:
    """User settings of an evaluation on another cohort.

    Attributes:
        subgroups: columns to report subgroups by; None for every suitable one.
        allow_overlap: also evaluate scans that the network was trained on; metrics and report then state how many.
        language: language of the report.
        config: interval method of the rates, and prevalences at which to state predictive values.
        gallery: number of errors, at most 12, that the report shows with heat maps.
        public_key: PEM file of the required signer's key; None also accepts an unsigned bundle, with a warning.
    """

    subgroups: Sequence[str] | None = None
    allow_overlap: bool = False
    language: Language = "en"
    config: EvaluationConfig = field(default_factory=EvaluationConfig)
    gallery: int = 6
    public_key: Path | str | None = None


def evaluate_bundle(
    bundle: os.PathLike[str] | str,
    cohort: Path | str | Cohort,
    out: Path | str,
    settings: EvaluationSettings = EvaluationSettings(),
    progress: Progress = silent,
) -> Metrics:
    """Predict a labelled cohort and write predictions.csv, metrics.json and report.html. Counts as test-set access.

    Args:
        bundle: a bundle folder, or a run folder that contains one.
        cohort: the table; its classes must be the bundle's.
        out: folder to write to.
        settings: what is measured and shown.
        progress: progress callback.

    Raises:
        UsageError: there is no such language, the gallery is too large, a subgroup column does not exist, a prevalence
            is stated for an unknown class, the run's test access log is damaged, the public key cannot be read, or
            ``out`` holds an evaluation of another bundle or cohort.
        PatientLeak: the bundle, its source or its pretraining was trained on a patient or scan of the cohort.
        CohortError: the table is unusable, or has other classes than the bundle.
        BundleError: the bundle is damaged, was changed, or is not signed by the required key.
        NothingDone: no scan can be used.
        FolderInUse: another run is using ``out``.
        OutputError: a file cannot be written.
    """
    started, out = time.monotonic(), given_path(out, "out", "an output folder")
    config, explain = settings.config, _checked(settings)
    folder = bundle_folder(bundle)
    record = read_record(folder)
    if settings.public_key is not None:
        verify_bundle(folder, settings.public_key)  # before any scan is read
    if isinstance(cohort, Cohort):
        cohort = cohort.of_classes(record.labels)
    else:
        cohort = Cohort.read(cohort, labels=record.labels)
    check_subgroups(cohort, settings.subgroups)
    checked_prevalence(config.prevalence, cohort.labels)
    warn_of_other_spellings(cohort, record.trained_on.patient_hashes)
    if not settings.allow_overlap:  # by patient, before any scan is read
        _check_training_overlap(record, cohort, [()] * len(cohort))
    with sole_writer(out, "an evaluation"), log_file(out / "run.log", delay=True):
        EvaluationRecord.of(record, cohort).claim(out)
        prepared = prepare_cohort(cohort, Preprocessing(record.preprocessing), out / "prepared", progress=progress)
        if not settings.allow_overlap:
            _check_training_overlap(record, prepared.cohort, prepared.content_hashes)
        network = load_network(folder, settings.public_key)
        with _test_access(record, prepared, folder, out) as access:
            given = _predicted(record, network, prepared, access, progress)
            made = origin(cohort.path, bundle=run_folder(folder) or folder, evaluation=out)
            seconds = time.monotonic() - started
            summary = replace(given.summary, origin=made, seconds=seconds, language=settings.language)
            return evaluate(
                replace(given, summary=summary),
                out,
                config=config,
                subgroups=settings.subgroups,
                explain=explain,
                progress=progress,
            )


def _predicted(
    record: BundleRecord, network: Ensemble, prepared: PreparedCohort, access: AccessCounts, progress: Progress
) -> EvaluationInput:
    """Predict the scans, and collect everything that the evaluation needs."""
    probabilities, novelty = predict(network, prepared, progress)
    overlap = _overlap(record, prepared)
    within, shortcuts = cross_validate_baselines(prepared.handcrafted, as_development(prepared))
    known_figures = KnownFigures(
        overlap=overlap,
        domain=_domain(record, prepared, novelty),
        shortcuts=shortcuts,
        test_set_access=access,
    )
    baselines = _prevalence(record, len(prepared.scans)) | within
    return EvaluationInput(
        record,
        network,
        prepared,
        probabilities,
        novelty,
        _summary(record, prepared, overlap, own=bool(access.own)),
        baselines,
        known_figures,
    )


@contextmanager
def _test_access(record: BundleRecord, prepared: PreparedCohort, bundle: Path, out: Path) -> Iterator[AccessCounts]:
    """Log the test-set access in the run folder, or in the output folder if there is none or it is read-only."""
    run = run_folder(bundle)
    of_run = run / ACCESS_LOG_FILE if run else None
    writable = of_run is not None and os.access(of_run if of_run.exists() else of_run.parent, os.W_OK)
    own = seen_in_training(record.held_out, prepared.cohort, prepared.content_hashes)
    access = Access(
        by="evaluate",
        own=bool(own) if record.held_out else None,
        all_own=len(own) == len(prepared.scans) or not own,
        cohort_hash=labelled_scans_hash(prepared.cohort, prepared.content_hashes),
        n_scans=len(prepared.scans),
        lock_hash=record.lock_hash,
        operating_point=record.operating_point,
    )
    if of_run is not None and writable:
        counted = record_access(of_run, access)
    else:
        counted = record_access(out / ACCESS_LOG_FILE, access, elsewhere=of_run)
    with counted as counts:
        log.log(counts.level, counts.sentence)
        yield counts


def _prevalence(record: BundleRecord, n_scans: int) -> dict[str, NDArray[np.float64]]:
    """The prevalence baseline from the development scans; none if the bundle does not state their class shares.

    The shares of this cohort cannot be used: they come from the labels that are to be predicted.
    """
    if record.development is None:
        return {}
    shares = [record.development.prevalence[name] for name in record.classes]
    return {PREVALENCE_BASELINE: np.tile(shares, (n_scans, 1))}


def _checked(settings: EvaluationSettings) -> ExplainConfig:
    """Check before any scan is read what would otherwise end the evaluation at the report. Raises UsageError."""
    translator(settings.language)
    try:
        return ExplainConfig(gallery=settings.gallery)
    except ValidationError:
        expected = f"a number from 0 to {MAX_GALLERY}"
        raise UsageError(f"a gallery of {settings.gallery!r} errors", expected=expected) from None


def _check_training_overlap(record: BundleRecord, cohort: Cohort, content_hashes: Sequence[Images]) -> None:
    seen = seen_in_training(record.trained_on, cohort, content_hashes)
    if not seen:
        return
    named = few([str(cohort.cases[i]) for i in seen])
    of_source = len(seen_in_training(record.trained_on.from_source, cohort, content_hashes))
    through = f" ({of_source} of them by its source or pretraining)" if of_source else ""
    raise PatientLeak(
        f"the bundle was trained on {len(seen)} of these scans or their patients{through}: {named}",
        where=cohort.path or "",
        expected="patients that the bundle never saw",
        action="Leave those rows out, or pass --allow-overlap: the figures are then not of new patients",
    )


def _overlap(record: BundleRecord, prepared: PreparedCohort) -> Overlap:
    cohort, source = prepared.cohort, record.trained_on.from_source
    seen = seen_in_training(record.trained_on, cohort, prepared.content_hashes)
    return Overlap(
        n_scans=len(cohort),
        n_patients=len(set(cohort.patients)),
        seen_scans=len(seen),
        seen_patients=len({cohort.patients[i] for i in seen}),
        seen_by_source=len(seen_in_training(source, cohort, prepared.content_hashes)) if source else None,
    )


def _domain(record: BundleRecord, prepared: PreparedCohort, novelty: NDArray[np.float64]) -> Domain:
    cohort, facts = prepared.cohort, prepared.acquisitions
    envelopes = (record.input_envelope, *record.input_envelope.further)
    return domain_of(
        AcquiredScans(
            np.array([scan.spacings_mm for scan in prepared.scans]), novelty, facts, cohort.patients, cohort.truth
        ),
        profile_of(cohort.truth, cohort.labels.names, cohort.patients, facts),
        envelope_mm=(
            [envelope.spacing_mm_low for envelope in envelopes],
            [envelope.spacing_mm_high for envelope in envelopes],
        ),
        training=record.development,
        abstain_above=record.abstain_above_novelty,
    )


def _summary(record: BundleRecord, prepared: PreparedCohort, overlap: Overlap, *, own: bool) -> RunSummary:
    """Summary for the report; ``own``: whether test patients of the bundle's run are among the scans."""
    cohort, parts = prepared.cohort, ["test"] * len(prepared.scans)
    new = Sentence("no patient of this cohort was used in training (the bundle remembers whom it saw)")
    return RunSummary(
        title=f"{cohort_name(cohort.path)}: {'evaluation' if own else 'external evaluation'}",
        question=Sentence("Which of {names}?", names=", ".join(record.classes)),
        backbone=record.backbone.name,
        backbone_licence=record.backbone.licence,
        cohort=cohort_counts(cohort.truth, cohort.patients, parts, cohort.labels),
        split=Sentence("not at all: {why}", why=overlap.sentence or new),
        flow=participant_flow(cohort.patients, parts, [scan.patient for scan in prepared.failed]),
        seconds=0.0,
        software=versions(),
        model_card=model_card_rows(record),
    )
