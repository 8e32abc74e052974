"""Judging a bundle on scans it has not seen: predictions.csv, metrics.json and report.html."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from med_transfer.bundle import BundleRecord
from med_transfer.cohorts import PreparedCohort, channel_columns
from med_transfer.evaluation.error_gallery import gallery
from med_transfer.evaluation.subgroup_columns import cohort_subgroups
from med_transfer.explanation.config import ExplainConfig
from med_transfer.fusion import Fused, Fusion, FusionScans
from med_transfer.fusion.clinical import with_values
from med_transfer.metrics.compute_metrics import compute_metrics
from med_transfer.metrics.config import EvaluationConfig
from med_transfer.metrics.fusion import fusion_figures
from med_transfer.metrics.prediction_sets import measure_sets
from med_transfer.metrics.records.decisions import AccessCounts
from med_transfer.metrics.records.domain import Domain, Overlap
from med_transfer.metrics.records.fusion import FusionMetrics
from med_transfer.metrics.records.metrics import GeneralisationGap, KeptNetwork, Metrics, TransferGain
from med_transfer.metrics.records.prediction_sets import SetMetrics
from med_transfer.metrics.records.shortcuts import Shortcuts
from med_transfer.model.ensemble import Ensemble
from med_transfer.predictions.record import Prediction
from med_transfer.predictions.table import PredictionTable
from med_transfer.report.evidence import Evidence
from med_transfer.report.run_summary import LearningCurve, RunSummary
from med_transfer.report.writing import write_report

_BATCH = 16


def evaluate(
    record: BundleRecord,
    prepared: PreparedCohort,
    probabilities: NDArray[np.float64],
    novelty: NDArray[np.float64],
    out: Path,
    summary: RunSummary,
    *,
    baselines: Mapping[str, NDArray[np.float64]] | None = None,
    gain: TransferGain | None = None,
    curves: Sequence[LearningCurve] = (),
    seed: int = 0,
    kept: KeptNetwork | None = None,
    gap: GeneralisationGap | None = None,
    subgroups: Sequence[str] | None = None,
    shortcuts: Shortcuts | None = None,
    overlap: Overlap | None = None,
    domain: Domain | None = None,
    openings: AccessCounts | None = None,
    config: EvaluationConfig | None = None,
    ensemble: Ensemble | None = None,
    explain: ExplainConfig = ExplainConfig(),  # noqa: B008 (frozen)
) -> Metrics:
    """Write predictions, metrics and report of scans with labels.

    A bundle with a fusion gets it measured too. The table's ``predicted`` stays the network's call; metrics and report
    are the fused model's where the fusion says so and every scan could be fused.

    Args:
        record: of the bundle that is judged.
        prepared: the scans, as the network sees them, with the scans that could not be used.
        probabilities: [scan, class]; novelty: [scan]; see :func:`predict`.
        out: folder to write to.
        summary: what the report says of the run.
        baselines: name to probabilities [scan, class] on the same scans.
        gain: over the same network from scratch.
        curves: of the training.
        seed: of the bootstrap.
        kept, gap: of the training.
        subgroups: columns to measure by; None: every suitable one.
        shortcuts: what the acquisition of development scans gives away.
        overlap, domain: how new and how far off the scans are to a bundle that is judged on another cohort.
        openings: how often these scans were opened, with this time.
        config: which intervals the rates get, and the prevalence to state predictive values at.
        ensemble: the network that gave the probabilities; None: no error is shown with where it looked.
        explain: how many errors are shown.
    """
    cohort = prepared.cohort
    predictions = [
        record.answer(unanswered, probabilities[row], float(novelty[row]))
        for row, unanswered in enumerate(prepared.unanswered())
    ]
    shown, fusion = probabilities, None
    if record.fusion is not None:
        scans = fusion_scans(prepared, probabilities)
        fused = record.fusion.fuse(scans)
        predictions = [fused.complete(answered, row, record.classes) for row, answered in enumerate(predictions)]
        shown = fused.probabilities if record.fusion.report == "fused" and fused.done.all() else probabilities
        fusion = _fusion_metrics(record.fusion, scans, fused, prepared, shown is fused.probabilities, seed)
    _write_table(out / "predictions.csv", record, [*predictions, *prepared.failed])
    if shown is not probabilities:
        predictions = [record.answer(one, shown[row], float(novelty[row])) for row, one in enumerate(predictions)]
    metrics = compute_metrics(
        cohort.truth,
        shown,
        cohort.patients,
        cohort.labels,
        operating_point=record.operating_point,
        failed=prepared.failed,
        baselines=baselines or {},
        subgroups=cohort_subgroups(prepared, subgroups, channel_columns(record.preprocessing)),
        transfer_gain=gain,
        config=config,
        seed=seed,
    )
    metrics = metrics.model_copy(
        update={
            "kept_network": kept,
            "fit_gap": gap,
            "fusion": fusion,
            "shortcuts": shortcuts,
            "overlap": overlap,
            "domain": domain,
            "chosen_point": record.chosen_point,
            "prediction_sets": _set_metrics(record, prepared, probabilities, config, seed),
            "openings": openings,
        }
    )
    metrics.save(out / "metrics.json")
    misses, checks = gallery(record, ensemble, prepared, predictions, explain.gallery) if ensemble else ([], None)
    evidence = Evidence(
        metrics, summary, curves, misses, checks, truth=cohort.truth, probabilities=shown, patients=cohort.patients
    )
    write_report(out / "report.html", evidence)
    return metrics


@torch.inference_mode()
def predict(ensemble: Ensemble, prepared: PreparedCohort) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities [scan, class] and novelty [scan] of prepared scans; on a GPU when there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ensemble = ensemble.to(device).eval()
    images = [torch.from_numpy(tensor.astype(np.float32)) for tensor in prepared.tensors]
    results = [ensemble.predict(torch.stack(images[i : i + _BATCH]).to(device)) for i in range(0, len(images), _BATCH)]
    ensemble.cpu()
    probabilities, novelty = (torch.cat(parts).cpu().double().numpy() for parts in zip(*results, strict=True))
    return probabilities, novelty


def fusion_scans(prepared: PreparedCohort, probabilities: NDArray[np.float64]) -> FusionScans:
    """What a fusion needs to know of prepared scans."""
    cases = prepared.cohort.cases
    named = with_values([case.columns for case in cases])
    return FusionScans(probabilities, prepared.handcrafted, [case.within for case in cases], named)


def _fusion_metrics(
    fusion: Fusion, scans: FusionScans, fused: Fused, prepared: PreparedCohort, reported: bool, seed: int
) -> FusionMetrics:
    rows, cohort, whole = np.flatnonzero(fused.done), prepared.cohort, fusion.combinations[0]
    patients = [cohort.patients[row] for row in rows]
    figures = {}
    if len(rows):
        by_parts = fusion.by_parts(scans.take(rows))
        figures = fusion_figures(cohort.truth[rows], by_parts, patients, cohort.labels, seed=seed)
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


def _set_metrics(
    record: BundleRecord,
    prepared: PreparedCohort,
    probabilities: NDArray[np.float64],
    config: EvaluationConfig | None,
    seed: int,
) -> SetMetrics | None:
    """Of the network's own probabilities, which the sets were made for, also where the fused model is reported."""
    sets, cohort = record.prediction_sets, prepared.cohort
    if sets is None:
        return None
    return measure_sets(
        cohort.truth,
        sets.members(probabilities),
        cohort.patients,
        cohort.labels,
        target=sets.coverage,
        thresholds=sets.thresholds,
        n_patients=sets.n_patients,
        config=config,
        seed=seed,
    )


def _write_table(path: Path, record: BundleRecord, predictions: Sequence[Prediction]) -> None:
    path.unlink(missing_ok=True)  # judged anew, never resumed
    with PredictionTable(path, record.labels, fused=record.fusion is not None) as table:
        for prediction in predictions:
            table.append(prediction)
        table.finish()
