"""The files of a selection: ``selection.json``, and a readable ``selection.md``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict

from med_transfer.atomic import write_text
from med_transfer.errors.numbers import counted, rounded, significant
from med_transfer.finetuning import FinetuneConfig
from med_transfer.page.markdown import as_text, table
from med_transfer.selection.record import BackboneScore, LayerScore, Selection, layer_text

SCHEMA = 1
RULE = (
    "The macro AUC of a cross-validated linear probe decides. Backbones within one standard error of the best are "
    "tied; ties are decided by LogME if it gives at least one nat of evidence over all patients, otherwise by cost. A "
    "backbone that does not beat its own random weights by more than the standard error of the difference is not "
    "recommended."
)
_HEAD = (
    "backbone",
    "stage",
    "macro AUC",
    "random",
    "gain",
    "bal. sens.",
    "k-NN",
    "LogME",
    "BN corr.",
    "Frechet",
    "s/scan",
)


def as_record(selection: Selection, config: FinetuneConfig | None = None) -> dict:
    """The content of ``selection.json``."""
    record = {"schema": SCHEMA, **asdict(selection), "rule": RULE, "overrides": list(selection.overrides)}
    for score, entry in zip(selection.ranking, record["ranking"], strict=True):
        entry["beats_random"] = score.beats_random
    record["folder"] = str(selection.folder)
    if config is not None:
        record["config"] = {part: getattr(config, part).model_dump(mode="json") for part in ("input", "split")}
        record["config"]["seed"] = config.seed
    return record


def write_selection(selection: Selection, config: FinetuneConfig) -> None:
    """Write both files into the selection's folder. Raises OutputError."""
    write_text(selection.folder / "selection.json", json.dumps(as_record(selection, config), indent=2) + "\n")
    write_text(selection.folder / "selection.md", as_markdown(selection))


def table_rows(selection: Selection) -> list[tuple[str, ...]]:
    """The ranking as a table: a row of headings, then one row per backbone. Unknown values are empty.

    The Frechet distance is a share of the source's variance. With columns two spaces apart and names of up to 25
    letters, the table fits into 120 columns.
    """
    return [_HEAD, *(_row(score) for score in selection.ranking)]


def _row(score: BackboneScore) -> tuple[str, ...]:
    best, memory, distance = score.best, score.gap.batch_norm, score.gap.frechet_relative
    gain, gain_error = score.gain_in_words
    return (
        score.name,
        layer_text(best.stages),
        f"{rounded(best.macro_auc, 2)} ± {best.standard_error:.2f}",
        rounded(score.random_best.macro_auc, 2),
        f"{gain} ± {gain_error}",
        f"{best.balanced_sensitivity:.2f}",
        f"{best.knn_macro_auc:.2f}",
        f"{best.log_me:.2f}",
        f"{memory.correlation:.2f}" if memory else "",
        f"{distance:.2f}" if distance is not None else "",
        significant(score.cost.seconds_per_scan) if score.cost.seconds_per_scan is not None else "",
    )


def as_markdown(selection: Selection) -> str:
    """The content of ``selection.md``: ranking, all layers, distance from each source, and what was left out."""
    kind = "findings" if selection.multilabel else "classes"
    parts = [
        "# Which backbone suits this cohort",
        f"{counted(selection.n_scans, 'scan')} of {counted(selection.n_patients, 'patient')} in "
        f"{selection.n_folds} training folds; {kind}: "
        f"{as_text(', '.join(selection.classes))}. Scans that `finetune` keeps for testing were shown to no network.",
        f"**Recommended: {selection.recommended or 'none'}.** {selection.reason}",
        *([_how_to_start(selection)] if selection.choice else []),
        "## Ranking",
        table(table_rows(selection)),
        RULE,
        *[text for score in selection.ranking for text in _details(score)],
    ]
    for title, reasons in (("Left out", selection.left_out), ("Scans that could not be used", selection.failed)):
        if reasons:
            parts += [f"## {title}", "\n".join(f"- {as_text(f'{name}: {reason}')}" for name, reason in reasons.items())]
    return "\n\n".join(parts) + "\n"


def _how_to_start(selection: Selection) -> str:
    purpose = "take it" if selection.recommended else f"try {selection.to_try}"
    same = "the same config (where none was given: `-c` and plan.yaml beside this file, or `--no-plan`)"
    return f"To {purpose}, give `finetune` {same} and:\n\n    {as_options(selection.overrides)}"


def as_options(overrides: Sequence[str]) -> str:
    """The overrides as command-line options, quoted for a shell."""
    return " ".join(f"--set {shlex.quote(text)}" for text in overrides)


def _details(score: BackboneScore) -> list[str]:
    cost, leep = score.cost, "unknown" if score.leep is None else f"{score.leep:.3f}"
    weights, activations = significant(cost.parameters_mib), significant(cost.activations_mib)
    memory = f"{weights} MiB of weights, {activations} MiB of activations a scan"
    return [
        f"## {score.name}",
        f"Licence: {score.licence}. {memory}. LEEP: {leep}.",
        table([_LAYER_HEAD, *_layer_rows("source", score.layers), *_layer_rows("random", score.random_layers)]),
        f"Distance from the source: {_gap(score)}.",
    ]


_LAYER_HEAD = (
    "weights",
    "stage",
    "features",
    "macro AUC",
    "balanced sens.",
    "k-NN AUC",
    "LogME",
    "H-score",
    "N-LEEP",
    "TransRate",
)


def _layer_rows(weights: str, layers: Sequence[LayerScore]) -> list[tuple[str, ...]]:
    return [
        (
            weights,
            layer_text(layer.stages),
            str(layer.n_features),
            f"{rounded(layer.macro_auc, 2)} ± {layer.standard_error:.2f}",
            f"{layer.balanced_sensitivity:.2f}",
            f"{layer.knn_macro_auc:.2f}",
            f"{layer.log_me:.3f}",
            f"{layer.h_score:.3f}",
            f"{layer.n_leep:.3f}",
            f"{layer.trans_rate:.2f}",
        )
        for layer in layers
    ]


def _gap(score: BackboneScore) -> str:
    gap, parts = score.gap, []
    if gap.batch_norm:
        memory = gap.batch_norm
        parts.append(
            f"batch normalisation: correlation {memory.correlation:.2f}, shift {memory.shift:.2f} sd, spread "
            f"{memory.spread:.2f}"
        )
    if gap.stages is not None and gap.frechet is not None:
        of_variance = "" if gap.frechet_relative is None else f", {gap.frechet_relative:.2f} of the source's variance"
        parts.append(f"stage {layer_text(gap.stages)}: Frechet {significant(gap.frechet, 3)}{of_variance}")
    if gap.mmd_squared is not None:
        p_value = "" if gap.mmd_p_value is None else f" (p = {significant(gap.mmd_p_value)})"
        parts.append(f"MMD² {significant(gap.mmd_squared)}{p_value}, A-distance {gap.proxy_a_distance:.2f}")
    if gap.other_input:
        parts.append(f"part of it is how the source's scans were given to the network: {gap.other_input}")
    return "; ".join([*parts, *([f"unknown: {gap.unknown}"] if gap.unknown else [])])
