"""A run's outcome in a few lines of text."""

from __future__ import annotations

import json
from collections.abc import Mapping

from med_transfer.bundle import read_record
from med_transfer.cli.terminal import say, say_json
from med_transfer.errors.numbers import counted, rounded, whole_percent
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.metrics.records.fusion import FusionMetrics
from med_transfer.metrics.records.metrics import Metrics, Repeats
from med_transfer.predictions.table import PredictionTable, why_abstained


def say_run(run, *, as_json: bool) -> None:
    """Per-class sensitivity, transfer gain, failures, and where everything is."""
    metrics = run.metrics
    if as_json:
        say_json(json.loads((run.folder / "metrics.json").read_text(encoding="utf-8")))
        return
    say_metrics(metrics)
    rows = [row for row in PredictionTable.load(run.folder / "predictions.csv") if row.status == "ok"]
    limit = read_record(run.bundle).abstain_above_novelty
    say_abstained(sum(row.abstained for row in rows), len(rows), limit, why_abstained(rows))
    say(f"report: {run.report}")
    say(f"bundle: {run.bundle}")


def _by_split(repeats: Repeats | None) -> str:
    areas = [area for area in repeats.macro_auc if area is not None] if repeats else []
    return f", range over repeats {rounded(min(areas), 2)} to {rounded(max(areas), 2)}" if areas else ""


def say_metrics(metrics: Metrics) -> None:
    """The figures of metrics.json that a person asks for first."""
    seen = metrics.overlap.sentence if metrics.overlap else ""
    kind = "out-of-fold" if metrics.out_of_fold else "test"
    how = "each by a network not trained on it" if metrics.out_of_fold else "not used for training"
    if metrics.repeats:
        how = f"each by the mean of {metrics.repeats.n} networks not trained on it"
    say(
        f"{counted(metrics.n_scans, f'{kind} scan')} of {counted(metrics.n_patients, 'patient')}"
        f"{'' if seen else f', {how}'}"
    )
    if seen:
        say(f"  warning: {seen}")
    if metrics.test_set_access and metrics.test_set_access.n > 1:
        say(f"  warning: {metrics.test_set_access.sentence}")
    width = max(len(name) for name in metrics.classes)
    for name, rates in metrics.classes.items():
        figures = f"sensitivity {estimate_text(rates.sensitivity)}   specificity {estimate_text(rates.specificity)}"
        say(f"  {name:<{width}}  n {rates.n:4d}   {figures}")
    say(f"  balanced accuracy {estimate_text(metrics.balanced_accuracy)}")
    say(f"  macro AUC {estimate_text(metrics.macro_auc)}{_by_split(metrics.repeats)}")
    for name, baseline in metrics.baselines.items():
        say(f"  baseline {name}: macro AUC {estimate_text(baseline.macro_auc)}")
    if metrics.fusion:
        _say_fusion(metrics.fusion)
    gain = metrics.transfer_gain
    if gain:
        say(f"  transfer over scratch: {gain.verdict}")
        say(f"    macro AUC {estimate_text(gain.macro_auc, signed=True)}")
        say(f"    balanced accuracy {estimate_text(gain.balanced_sensitivity, signed=True)}")
    if metrics.kept_network and metrics.kept_network.validation:
        say(f"  network kept: {metrics.kept_network.network}, decided on validation scans")
    if metrics.generalisation_gap and metrics.generalisation_gap.exceeded:
        say(f"  over-fitting: {metrics.generalisation_gap.sentence}")
    if metrics.domain and metrics.abstained:
        abstained = metrics.abstained
        say_abstained(abstained.n, metrics.n_scans, abstained.above, abstained.reasons)
    if metrics.failed.n:
        say(f"  {counted(metrics.failed.n, 'scan')} gave no prediction; reasons in the report")


def say_abstained(n_abstained: int, n_ok: int, limit: float | None, reasons: Mapping[str, int]) -> None:
    """How many predictions abstain and why; nothing where the bundle never does."""
    if limit is None:
        return
    if n_abstained == 0:
        say(f"0 of {n_ok} predictions abstain")
        return
    novel = f"more out-of-distribution than {whole_percent(limit)} of held-out scans ({reasons.get('novelty', 0)})"
    outside = [f"{code.removeprefix('outside_')} ({n})" for code, n in reasons.items() if code != "novelty"]
    envelope = f"; outside the input envelope: {', '.join(outside)}" if outside else ""
    say(f"{n_abstained} of {n_ok} predictions abstain: {novel}{envelope}")


def _say_fusion(fusion: FusionMetrics) -> None:
    say(f"  fusion of {', '.join(fusion.use)} ({counted(fusion.n_scans, 'scan')}):")
    for name, model in fusion.models.items():
        say(f"    {name}: macro AUC {estimate_text(model.macro_auc)}")
    for name, minus in fusion.fused_minus.items():
        say(f"    fused minus {name}: macro AUC {estimate_text(minus.macro_auc, signed=True)}")
    for warning in fusion.warnings:
        say(f"    warning: {warning}")


def estimate_text(estimate: Estimate, *, signed: bool = False, margin: float | None = None) -> str:
    """For example ``0.87 [0.79, 0.93]``; with a plus sign where ``signed``; told from minus the margin."""
    if estimate.value is None:
        return "undefined"
    sign, of = "+" if signed else "", (-1.0, 0.0, 1.0) if margin is None else (-1.0, -margin, 0.0, 1.0)
    limits = ", ".join(rounded(limit, 2, sign, of) for limit in estimate.interval or ())
    return rounded(estimate.value, 2, sign, of) + (f" [{limits}]" if limits else "")
