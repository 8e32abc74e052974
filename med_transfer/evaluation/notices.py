"""What the reader of a report must know first, in sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from med_transfer.evaluation.estimate import Estimate, Interval
from med_transfer.evaluation.fusion_metrics import FusionMetrics
from med_transfer.evaluation.metrics import Metrics, TransferGain

Level = Literal["good", "neutral", "warning"]

STRONGEST_BASELINE = "handcrafted"
FEW_SCANS = 10  # below this the interval of a sensitivity is over 45 points wide

_GAIN: dict[str, tuple[Level, str, str]] = {
    "gain": ("good", "Transfer helped", "The pretrained network beats the same network trained from scratch."),
    "none": (
        "neutral",
        "No gain from transfer was shown",
        "The pretrained network and the same network trained from scratch cannot be told apart on these scans.",
    ),
    "harm": (
        "warning",
        "Negative transfer",
        "The same network trained from scratch is better: do not use this backbone for this question.",
    ),
}


@dataclass(frozen=True)
class Notice:
    level: Level
    title: str
    text: str


def notices(metrics: Metrics) -> list[Notice]:
    """In the order of reading: fusion, transfer, what was kept, baseline, over-fitting, failed scans, few scans."""
    found = [
        _fusion(metrics.fusion), _leaks(metrics.fusion), _transfer(metrics.transfer_gain), _kept(metrics),
        _baseline(metrics), _gap(metrics), _failed(metrics), _few(metrics),
    ]  # fmt: skip
    return [notice for notice in found if notice is not None]


def judged(metrics: Metrics) -> str:
    """What the main figures are of, in a word or two."""
    return "fused model" if metrics.fusion and metrics.fusion.report == "fused" else "network"


def signed(estimate: Estimate) -> str:
    """A difference, for example ``+0.081``."""
    return "undefined" if estimate.value is None else _sign(estimate.value)


def signed_interval(interval: Interval | None) -> str:
    """The interval of a difference, for example ``−0.012 to +0.150``."""
    return "" if interval is None else f"{_sign(interval[0])} to {_sign(interval[1])}"


def _sign(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _difference(estimate: Estimate) -> str:
    if estimate.ci95 is None:
        return f"{signed(estimate)} ({estimate.reason})"
    return f"{signed(estimate)} (95 % CI {signed_interval(estimate.ci95)})"


def _transfer(gain: TransferGain | None) -> Notice:
    if gain is None:
        text = "This run trained no network from scratch, so nothing is known about gain or negative transfer."
        return Notice("neutral", "Transfer gain was not measured", text)
    level, title, text = _GAIN[gain.verdict]
    measured = (
        f" Transferred minus scratch: macro AUC {_difference(gain.macro_auc)}; "
        f"balanced sensitivity {_difference(gain.balanced_sensitivity)}; {gain.n_patients} patients."
    )
    return Notice(level, title, text + measured)


def _kept(metrics: Metrics) -> Notice | None:
    kept = metrics.kept_network
    if kept is None or kept.validation is None:
        return None
    if kept.fell_back:
        return Notice("warning", "The bundle holds the network from scratch", kept.sentence)
    return Notice("neutral", "The bundle holds the transferred network", kept.sentence)


def _fusion(fusion: FusionMetrics | None) -> Notice | None:
    """What the fused model brings over the network, what each part adds, and whose figures the page shows."""
    if fusion is None:
        return None
    shown = " Every figure outside the fusion's table is the network's, from the image alone."
    if fusion.report == "fused":
        shown = (
            " Every figure outside the fusion's table is the fused model's, but for the transfer gain and the training."
        )
    if not fusion.models:
        return Notice("warning", "No scan could be fused", f"{'; '.join(fusion.not_fused)}.{shown}")
    over = fusion.fused_minus["image-only"].macro_auc
    headings: dict[int, tuple[Level, str]] = {
        1: ("good", "Fusion beats the network alone"),
        0: ("neutral", "Fusion is not shown to differ from the network alone"),
        -1: ("warning", "Fusion is worse than the network alone"),
    }
    level, title = headings[over.excludes_zero]
    lost = "; ".join(f"{part} {_difference(one.macro_auc)}" for part, one in fusion.contributions.items())
    text = f"Fused minus image-only: macro AUC {_difference(over)}. Lost without each part: {lost}."
    return Notice(level, title, text + shown)


def _leaks(fusion: FusionMetrics | None) -> Notice | None:
    if fusion is None or not fusion.warnings:
        return None
    text = "; ".join(fusion.warnings)
    return Notice("warning", "A clinical column may give the answer away", f"{text[:1].upper()}{text[1:]}.")


def _gap(metrics: Metrics) -> Notice | None:
    if metrics.fit_gap is None or not metrics.fit_gap.exceeded:
        return None
    text = metrics.fit_gap.sentence
    return Notice("warning", "The networks over-fit", f"{text[:1].upper()}{text[1:]}. See docs/transfer.md.")


def _baseline(metrics: Metrics) -> Notice | None:
    """Warn unless the network's macro AUC is above the handcrafted baseline's beyond doubt."""
    baseline = metrics.baselines.get(STRONGEST_BASELINE)
    if baseline is None or baseline.macro_auc_gain.value is None:
        return None
    gain, model = baseline.macro_auc_gain, judged(metrics)
    measured = f" {model.capitalize()} minus baseline: macro AUC {_difference(gain)}."
    simple = "a linear model on simple intensity and size features"
    if gain.excludes_zero > 0:
        return Notice("good", f"The {model} beats the handcrafted baseline", f"It beats {simple}.{measured}")
    if gain.value is not None and gain.value > 0:
        title = f"The {model} is not shown to beat the handcrafted baseline"
        return Notice("warning", title, f"It is ahead of {simple}, but the interval includes 0.{measured}")
    title = f"The {model} does not beat the handcrafted baseline"
    return Notice("warning", title, f"It is no better than {simple}, which is cheaper and easier to explain.{measured}")


def _failed(metrics: Metrics) -> Notice | None:
    asked = metrics.n_scans + metrics.failed.n
    if not metrics.failed.n:
        return None
    return Notice(
        "warning",
        f"{metrics.failed.n} of {asked} scans gave no prediction",
        "No rate on this page counts them. Reasons are listed under Failed scans.",
    )


def _few(metrics: Metrics) -> Notice | None:
    few = [f"{name} ({found.n})" for name, found in metrics.classes.items() if found.n < FEW_SCANS]
    if not few:
        return None
    return Notice(
        "warning",
        "Too few test scans to trust a rate",
        f"Fewer than {FEW_SCANS} test scans: {', '.join(few)}. Read the interval, not the number.",
    )
