"""The recommendation in words."""

from __future__ import annotations

from collections.abc import Sequence

from med_transfer.errors.numbers import rounded, significant
from med_transfer.finetuning.config import BackboneConfig
from med_transfer.selection.ranking import is_evidence, tied_with_the_best
from med_transfer.selection.record import BackboneScore, layer_text

_NO_GAIN = "No pretrained backbone beats its own random weights on these scans by more than a standard error"
_NONE_MAY_HELP = (
    f"{_NO_GAIN}, and all fall short of them by more than that: nothing speaks for transferring any of them. Train "
    "from scratch, gather more scans, or pretrain on scans of your own. Closest: "
)
_BEFORE_PRETRAINING = (
    "The ranking is of the weights before the pretraining on this cohort that the config asks for "
    "(backbone.pretrain: {}); after it, another backbone may be better."
)


def choose_backbone_to_try(ranking: Sequence[BackboneScore], start: BackboneConfig) -> BackboneScore | None:
    """The backbone to try if none is recommended, among those that may help: the config's own, else the first."""
    may_help = [score for score in ranking if score.may_help]
    return next((score for score in may_help if _is_start(score, start)), may_help[0] if may_help else None)


def recommend(ranking: Sequence[BackboneScore], patients: int, start: BackboneConfig) -> tuple[str | None, str]:
    """The first backbone of a ranking that beats its own random weights (None if none does), and the reason.

    Args:
        ranking: best first.
        patients: number of patients that it was measured on.
        start: the backbone that the config names now.
    """
    chosen = next((score for score in ranking if score.beats_random), None)
    before = f" {_BEFORE_PRETRAINING.format(start.pretrain)}" if start.pretrain else ""
    return chosen.name if chosen else None, f"{_reason(chosen, ranking, patients, start)}{before}"


def _reason(
    chosen: BackboneScore | None, ranking: Sequence[BackboneScore], patients: int, start: BackboneConfig
) -> str:
    if chosen is None:
        closest = max(ranking, key=lambda score: score.gain)
        reason = _without_recommendation(choose_backbone_to_try(ranking, start), start)
        return f"{reason}{closest.name}, {_over_random(closest)}."
    best = chosen.best
    parts = [
        f"{chosen.name}, stage {layer_text(best.stages)}: a linear probe on its frozen features reaches macro AUC "
        f"{rounded(best.macro_auc, 2)} (standard error {best.standard_error:.2f}), {_over_random(chosen)}.",
        *_skipped_backbones(ranking, chosen),
        *_tied_backbones([score for score in ranking if score.beats_random and score is not chosen], chosen, patients),
    ]
    if not chosen.commercial_use:
        parts.append(f"Its licence ({chosen.licence}) allows no commercial use.")
    return " ".join(parts)


def _without_recommendation(attempt: BackboneScore | None, start: BackboneConfig) -> str:
    if attempt is None:
        return _NONE_MAY_HELP
    why = "where the config starts" if _is_start(attempt, start) else "the first that may help"
    return (
        f"{_NO_GAIN}. Nor is it shown that they are worth nothing: `finetune` from {attempt.name} ({why}) with "
        "`--on-harm fallback` also trains the same network from scratch, and keeps that one where transfer is shown to "
        "harm; more scans would tell. Closest: "
    )


def _is_start(score: BackboneScore, start: BackboneConfig) -> bool:
    return (score.backbone, score.weights) == (start.name, str(start.weights) if start.weights else None)


def _over_random(score: BackboneScore) -> str:
    gain, error = score.gain_in_words
    random = rounded(score.random_best.macro_auc, 2)
    return f"{gain} (standard error {error}) against {random} of the same network with random weights"


def _skipped_backbones(ranking: Sequence[BackboneScore], chosen: BackboneScore) -> list[str]:
    """Sentences on backbones ranked before the chosen one, which do not beat their own random weights."""
    before = list(ranking)[: list(ranking).index(chosen)]
    return [f"{score.name} stands before it but does not beat its own random weights." for score in before]


def _tied_backbones(rivals: Sequence[BackboneScore], chosen: BackboneScore, patients: int) -> list[str]:
    """Sentences on backbones that the probe cannot distinguish from the chosen one, and on what decided."""
    tied = tied_with_the_best([score.criteria for score in (chosen, *rivals)])
    return [_tie_break(score, chosen, patients) for score in rivals if score.criteria in tied]


def _tie_break(rival: BackboneScore, chosen: BackboneScore, patients: int) -> str:
    chosen_log_me, rival_log_me = chosen.best.log_me, rival.best.log_me
    figures = f"{chosen_log_me:.3f} against {rival_log_me:.3f} a scan"
    if is_evidence(chosen_log_me - rival_log_me, patients):
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
    return f"{significant(score.cost.activations_mib)} MiB"
