"""Evaluate a bundle on scans it has not seen: predictions.csv, metrics.json and report.html."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from med_transfer.bundle import BundleRecord
from med_transfer.cohorts import PreparedCohort, channel_columns
from med_transfer.errors.sentence import Sentence
from med_transfer.evaluation.error_gallery import gallery
from med_transfer.evaluation.subgroup_columns import cohort_subgroups
from med_transfer.explanation.config import ExplainConfig
from med_transfer.fusion import Fused, Fusion, FusionScans
from med_transfer.fusion.clinical import with_values
from med_transfer.metrics.combination import absent_classes
from med_transfer.metrics.compute_metrics import KnownFigures, compute_metrics
from med_transfer.metrics.config import EvaluationConfig
from med_transfer.metrics.fusion import fusion_figures
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.measures import balanced_accuracy
from med_transfer.metrics.prediction_sets import measure_sets
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.metrics.records.fusion import FusionMetrics
from med_transfer.metrics.records.metrics import Abstained, Bootstrap, Metrics
from med_transfer.metrics.shortcuts import Development
from med_transfer.model.ensemble import Ensemble
from med_transfer.model.features import in_parts
from med_transfer.predictions.record import Prediction
from med_transfer.predictions.table import PredictionTable, why_abstained
from med_transfer.progress import Progress, silent
from med_transfer.report.evidence import Evidence
from med_transfer.report.run_summary import LearningCurve, RunSummary
from med_transfer.report.writing import write_report

_BATCH = 16


@dataclass(frozen=True, eq=False)
class EvaluationInput:
    """A network's predictions of labelled scans, and everything else that metrics and report are made from.

    Attributes:
        record, ensemble: record and network of the evaluated bundle.
        prepared: the scans, as the network sees them, including records of those that failed.
        probabilities: [scan, class], see :func:`predict`.
        novelty: [scan], in [0, 1].
        summary: summary of the run for the report.
        baselines: probabilities [scan, class] on the same scans, by name.
        known_figures: contents of metrics.json that are not computed from these predictions.
        curves: learning curves of the training.
        cross_fitted: for validation scans, rows with the record whose thresholds apply to them; empty if ``record``
            applies to all.
        fold_of: for validation scans, the fold model of each that did not train on it; else empty.
    """

    record: BundleRecord
    ensemble: Ensemble
    prepared: PreparedCohort
    probabilities: NDArray[np.float64]
    novelty: NDArray[np.float64]
    summary: RunSummary
    baselines: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    known_figures: KnownFigures = field(default_factory=KnownFigures)
    curves: Sequence[LearningCurve] = ()
    cross_fitted: Sequence[tuple[NDArray[np.intp], BundleRecord]] = ()
    fold_of: Sequence[int] = ()

    def answers(self, probabilities: NDArray[np.float64]) -> list[Prediction]:
        """Return the scans' predictions for given probabilities [scan, class]."""
        records = dict.fromkeys(range(len(probabilities)), self.record)
        for rows, record in self.cross_fitted:
            records |= dict.fromkeys(rows.tolist(), record)
        asked = zip(self.prepared.unanswered(), self.prepared.scans, strict=True)
        scans = zip(records.values(), asked, probabilities, self.novelty, strict=True)
        return [
            record.answer(unanswered, row, float(novelty), scan.input_facts)
            for record, (unanswered, scan), row, novelty in scans
        ]

    def labelled(self, probabilities: NDArray[np.float64]) -> LabelledPredictions:
        """Return given probabilities [scan, class] with the scans' truth, at the bundle's operating point."""
        cohort, point = self.prepared.cohort, self.record.operating_point
        predictions = LabelledPredictions.of(cohort.truth, probabilities, cohort.patients, cohort.labels, point)
        if not self.cross_fitted:
            return predictions
        calls = np.zeros_like(predictions.truth)
        for rows, record in self.cross_fitted:
            calls[rows] = record.operating_point.predictions(probabilities[rows], cohort.labels)
        return replace(predictions, calls=calls, out_of_fold=True)


def evaluate(
    given: EvaluationInput,
    out: Path,
    *,
    config: EvaluationConfig = EvaluationConfig(),  # noqa: B008 (frozen)
    subgroups: Sequence[str] | None = None,
    explain: ExplainConfig = ExplainConfig(),  # noqa: B008 (frozen)
    seed: int = 0,
    progress: Progress = silent,
) -> Metrics:
    """Write predictions, metrics and report of labelled scans, and return the metrics.

    A fusion in the bundle is evaluated too. Column ``predicted`` of the table is always the network's own call; metrics
    and report are those of the fused model if the fusion says so and every scan could be fused.

    Args:
        given: the predictions to evaluate.
        out: folder to write to.
        config: interval method of the rates, and prevalences at which to state predictive values.
        subgroups: columns to report subgroups by; None for every suitable one.
        explain: number of errors to show.
        seed: random seed of the bootstrap.
        progress: progress callback for the pictures of errors.

    Raises:
        UsageError: a prevalence is stated for an unknown class.
        OutputError: a file cannot be written.
    """
    began = time.monotonic()
    record, prepared = given.record, given.prepared
    predictions, reported, fusion = given.answers(given.probabilities), given.probabilities, None
    reporting = given
    if record.fusion is not None:
        predictions, reported, fusion = _fused(given, record.fusion, predictions, seed)
        if fusion.report == "fused":  # every scan could be fused
            of_fused = record.model_copy(update={"operating_point": record.reported_point})
            reporting = replace(given, record=of_fused)
    rows = _write_table(out / "predictions.csv", record, [*predictions, *prepared.failed])
    # Prediction sets use the network's own probabilities, also if the fused model is reported. On the validation scans
    # that their thresholds were learned from they are not measured.
    sets = None if given.cross_fitted else record.prediction_sets
    labelled = reporting.labelled(reported)
    metrics = compute_metrics(
        labelled,
        replace(
            given.known_figures,
            abstained=_abstained(labelled, predictions, record.abstain_above_novelty),
            fusion=fusion,
            chosen_point=record.chosen_point,
            calibrated_on=record.calibration.n_patients,
            prediction_sets=sets and measure_sets(given.labelled(given.probabilities), sets, config),
        ),
        baselines=given.baselines,
        subgroups=cohort_subgroups(prepared, subgroups, channel_columns(record.preprocessing)),
        failed=prepared.failed,
        config=config,
        resampling=Bootstrap(seed=seed),
    )
    metrics.save(out / "metrics.json")
    answers = reporting.answers(reported)
    misses, checks = gallery(record, given.ensemble, prepared, answers, explain.gallery, given.fold_of, progress)
    misses = [replace(miss, row=rows[miss.row]) for miss in misses]
    arrays = {"truth": prepared.cohort.truth, "probabilities": reported, "patients": prepared.cohort.patients}
    summary = replace(given.summary, seconds=given.summary.seconds + time.monotonic() - began)
    write_report(out / "report.html", Evidence(metrics, summary, given.curves, misses, checks, **arrays))
    return metrics


def _abstained(
    labelled: LabelledPredictions, predictions: Sequence[Prediction], above: float | None
) -> Abstained | None:
    """Number of predictions that abstain, by reason, and performance on the others; None if none can abstain."""
    if above is None:
        return None
    answered = np.array([not prediction.abstained for prediction in predictions])
    figure, absent = Estimate(value=None, ci95=None, method=Sentence("every prediction abstains")), []
    if answered.any():
        others = labelled.take(answered)
        figure, absent = balanced_accuracy(others), absent_classes(others)
    return Abstained(
        n=int((~answered).sum()),
        above=above,
        reasons=why_abstained(predictions),
        balanced_accuracy=figure,
        absent=absent,
    )


def _fused(
    given: EvaluationInput, fusion: Fusion, predictions: Sequence[Prediction], seed: int
) -> tuple[list[Prediction], NDArray[np.float64], FusionMetrics]:
    """Predictions with fused probabilities added, probabilities [scan, class] to report, and metrics of the fusion."""
    scans = fusion_scans(given.prepared, given.probabilities)
    fused = fusion.fuse(scans)
    reported = fusion.report == "fused" and bool(fused.done.all())
    completed = [fused.complete(answered, row, given.record.classes) for row, answered in enumerate(predictions)]
    figures = _fusion_metrics(fusion, scans, fused, given, reported, seed)
    return completed, fused.probabilities if reported else given.probabilities, figures


@torch.inference_mode()
def predict(
    ensemble: Ensemble, prepared: PreparedCohort, progress: Progress = silent
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return probabilities [scan, class] and novelty [scan] of prepared scans, computed on a GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ensemble = ensemble.to(device).eval()
    tensors, results = prepared.tensors, []
    for first in range(0, len(tensors), _BATCH):
        batch = np.stack(tensors[first : first + _BATCH]).astype(np.float32)
        images = torch.from_numpy(batch).to(device)
        results += [ensemble.predict(part) for part in in_parts(images, ensemble.fold_models[0].encoder)]
        progress("predicting", first + len(batch), len(tensors))
    ensemble.cpu()
    probabilities, novelty = (torch.cat(parts).cpu().double().numpy() for parts in zip(*results, strict=True))
    return probabilities, novelty


def fusion_scans(prepared: PreparedCohort, probabilities: NDArray[np.float64]) -> FusionScans:
    """Return the fusion inputs of prepared scans, with the network's probabilities [scan, class]."""
    cases = prepared.cohort.cases
    named = with_values([case.columns for case in cases])
    return FusionScans(probabilities, prepared.handcrafted, [case.within for case in cases], named)


def as_development(prepared: PreparedCohort) -> Development:
    """Return prepared scans as training data of the acquisition baseline."""
    cohort = prepared.cohort
    return Development(prepared.acquisitions, cohort.truth, cohort.patients, cohort.labels)


def _fusion_metrics(
    fusion: Fusion, scans: FusionScans, fused: Fused, given: EvaluationInput, reported: bool, seed: int
) -> FusionMetrics:
    rows, cohort, whole = np.flatnonzero(fused.done), given.prepared.cohort, fusion.combinations[0]
    patients = [cohort.patients[row] for row in rows]
    figures = {}
    if len(rows):
        by_parts = fusion.by_parts(scans.take(rows))
        points = dict.fromkeys(by_parts, fusion.balanced_point) | {("network",): given.record.balanced_point}
        figures = fusion_figures(cohort.truth[rows], by_parts, patients, cohort.labels, points, seed=seed)
    return FusionMetrics(
        use=list(fusion.inputs.use),
        columns=[column.name for column in fusion.inputs.columns],
        method=fusion.method,
        report="fused" if reported else "image",
        n_scans=len(rows),
        n_patients=len(set(patients)),
        not_fused=dict(Counter(reason for reason in fused.reasons if reason).most_common()),
        n_fitted=whole.n_scans,
        n_fitted_patients=whole.n_patients,
        inverse_penalty=whole.inverse_penalty,
        warnings=list(fusion.warnings),
        **figures,
    )


def _write_table(path: Path, record: BundleRecord, predictions: Sequence[Prediction]) -> list[int]:
    """Write the table, which is sorted, and return the row of each prediction in it; the header is row 1."""
    path.unlink(missing_ok=True)  # an evaluation never resumes an earlier table
    with PredictionTable(path, record.labels, fused=record.fusion is not None) as table:
        lines = [table.append(prediction) for prediction in predictions]
        table.finish()
    row_of = {line: row for row, line in enumerate(table.lines, start=2)}
    return [row_of[line] for line in lines]
