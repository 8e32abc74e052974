"""The recommendation in words."""

from __future__ import annotations

from collections.abc import Sequence

from med_transfer.selection.record import BackboneScore, layer_text
from med_transfer.transfer.choice import is_evidence, tied_with_the_best

_NONE = "No pretrained backbone beats its own random weights on these scans by more than a standard error"
_OPEN = (
    f"{_NONE}. Nor is it shown that they are worth nothing: `finetune` with one of them and `--on-harm fallback` also "
    "trains the same network from scratch and keeps the better one; more scans would tell. Closest: "
)
_WORTHLESS = (
    f"{_NONE}, and all fall short of them by more than that: nothing speaks for transferring any of them. Train from "
    "scratch, gather more scans, or pretrain on scans of your own. Closest: "
)


def recommend(ranking: Sequence[BackboneScore], scans: int) -> tuple[str | None, str]:
    """The first of a ranking over so many scans that beats its own random weights, and why; None when none does."""
    chosen = next((score for score in ranking if score.beats_random), None)
    if chosen is None:
        closest = max(ranking, key=lambda score: score.gain)
        told = _OPEN if closest.gain > -closest.gain_standard_error else _WORTHLESS
        return None, f"{told}{closest.name}, {_over_random(closest)}."
    best = chosen.best
    parts = [
        f"{chosen.name}, stage {layer_text(best.stages)}: a linear probe on its frozen features reaches macro AUC "
        f"{best.macro_auc:.2f} (standard error {best.standard_error:.2f}), {_over_random(chosen)}.",
        *_passed_over(ranking, chosen),
        *_rivals([score for score in ranking if score.beats_random and score is not chosen], chosen, scans),
    ]
    if not chosen.commercial_use:
        parts.append(f"Its licence ({chosen.licence}) allows no commercial use.")
    return chosen.name, " ".join(parts)


def _over_random(score: BackboneScore) -> str:
    return (
        f"{score.gain:+.2f} (standard error {score.gain_standard_error:.2f}) against {score.random_best.macro_auc:.2f} "
        "of the same network with random weights"
    )


def _passed_over(ranking: Sequence[BackboneScore], chosen: BackboneScore) -> list[str]:
    """Those that stand before it and do not beat their own random weights."""
    before = list(ranking)[: list(ranking).index(chosen)]
    return [f"{score.name} stands before it but does not beat its own random weights." for score in before]


def _rivals(others: Sequence[BackboneScore], chosen: BackboneScore, scans: int) -> list[str]:
    """Who cannot be told apart from it by the probe, and what decided."""
    tied = tied_with_the_best([score.best for score in (chosen, *others)])
    return [_decided(score, chosen, scans) for score in others if score.best in tied]


def _decided(rival: BackboneScore, chosen: BackboneScore, scans: int) -> str:
    mine, theirs = chosen.best.log_me, rival.best.log_me
    figures = f"{mine:.3f} against {theirs:.3f} a scan"
    if is_evidence(mine - theirs, scans):
        by = f"LogME decided, {figures}"
    elif chosen.cost.activations_mib < rival.cost.activations_mib:
        by = (
            f"LogME does not tell them apart either ({figures}), and cost decided: {_mib(chosen)} of activations a "
            f"scan against {_mib(rival)}"
        )
    else:
        by = f"LogME ({figures}) and cost put it behind"
    return f"{rival.name} ({rival.best.macro_auc:.2f}) is within a standard error of the best; {by}."


def _mib(score: BackboneScore) -> str:
    return f"{score.cost.activations_mib:.0f} MiB"
