"""What the reader of a report must know first, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from med_transfer.errors.numbers import whole_percent
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.metrics.records.fusion import FusionMetrics
from med_transfer.metrics.records.metrics import (
    MIN_PATIENTS_OF_GAIN,
    GeneralisationGap,
    KeptNetwork,
    Metrics,
)
from med_transfer.model.calibration.calibrators import FEW_PATIENTS
from med_transfer.page import ENGLISH, Translator, sentence
from med_transfer.report.evidence import Evidence
from med_transfer.report.numbers import (
    decimal,
    decimal_interval,
    difference,
    percent,
    percent_interval,
    scans,
    without,
)

Level = Literal["good", "neutral", "warning"]

STRONGEST_BASELINE = "handcrafted"
_ABSTAINED = {"novelty": sentence("novelty")}  # the other reasons are facts of a scan, by their column's name
MAX_REASONS, MAX_PAIRS = 3, 10
CHANCE = 0.5  # AUC of a coin
FEW_SCANS = 10  # below this the interval of a sensitivity is over 45 points wide
FITTED_WITHIN = sentence(
    "It was fitted within this cohort: each patient was predicted by a model fitted to the other patients."
)

_GAIN: dict[str, tuple[Level, str, str]] = {
    "gain": (
        "good",
        sentence("Transfer helped"),
        sentence("The pretrained network beats the same network trained from scratch."),
    ),
    "none": (
        "neutral",
        sentence("No gain from transfer was shown"),
        sentence(
            "On these scans, no difference was shown between the pretrained network and the same network trained from "
            "scratch."
        ),
    ),
    "harm": (
        "warning",
        sentence("Negative transfer"),
        sentence("The same network trained from scratch is better: do not use this backbone for this question."),
    ),
}
_TOO_FEW_FOR_GAIN = sentence("There are fewer than {least} patients, too few to show a gain or harm.")
_ONE_LIMIT = sentence(
    "A 95 % interval excludes 0, which is not enough for a verdict: since two measures are examined, one of their "
    "97.5 % intervals would have to."
)
# By the sides of 0 on which whole 95 % intervals lie.
_WITHOUT_VERDICT: dict[frozenset[int], str] = {
    frozenset({1}): _ONE_LIMIT,
    frozenset({-1}): _ONE_LIMIT,
    frozenset({1, -1}): sentence(
        "On these scans, the pretrained network is better in one measure and the same network trained from scratch in "
        "the other."
    ),
}
_FUSION: dict[int, tuple[Level, str]] = {
    1: ("good", sentence("Fusion beats the network alone")),
    0: ("neutral", sentence("No difference was shown between fusion and the network alone")),
    -1: ("warning", sentence("Fusion is worse than the network alone")),
}


@dataclass(frozen=True)
class Notice:
    """A box on the first screen: how grave, its heading, its sentences."""

    level: Level
    title: str
    text: str


def notices(evidence: Evidence, t: Translator = ENGLISH) -> list[Notice]:
    """In the order of reading: what limits every figure, then fusion and transfer."""
    metrics, model = evidence.metrics, t(evidence.model)
    candidates = [
        _out_of_fold(metrics, t),
        _copies(metrics, t),
        _baseline(metrics, model, t),
        *_chance(metrics, t),
        _never_called(metrics, t),
        _few(metrics, t),
        _few_patients(metrics, t),
        _calibrated_on_few(metrics, t),
        _failed(evidence, t),
        _abstained(metrics, t),
        _gap(metrics.generalisation_gap, t),
        _fusion(metrics.fusion, t),
        _leaks(metrics.fusion, t),
        _transfer(metrics, t),
        _kept_network(metrics.kept_network, t),
    ]
    return [notice for notice in candidates if notice is not None]


def _out_of_fold(metrics: Metrics, t: Translator) -> Notice | None:
    if not metrics.out_of_fold:
        return None
    what = t(
        "These figures are cross-validated: they come from the same patients that networks, thresholds and settings "
        "were chosen on. Each scan was predicted by a network that was not trained on it, with calibration and "
        "thresholds from other patients. But every setting tried on this cohort was judged on the same scans: the "
        "more settings were tried, the more optimistic the figures."
    )
    whose = t("They describe single networks, not the bundle's networks together.")
    if metrics.repeats is not None:
        whose = t(
            "The folds were drawn {n} times, so each scan's probability is the mean of {n} networks that were not "
            "trained on it. Each patient still counts once: the width of the intervals reflects the number of "
            "patients.",
            n=metrics.repeats.n,
        )
    title = t("Development evidence only: no patients were held out as a test set")
    return Notice("warning", title, f"{what} {whose}")


def _copies(metrics: Metrics, t: Translator) -> Notice | None:
    pairs = metrics.altered_copies
    if not pairs:
        return None
    text = t(
        "Two patients on different sides of the split look nearly the same to the network: rows {pairs} of the table. "
        "If they are one patient (another reconstruction, one slice fewer), name that patient in both rows and train "
        "again; otherwise the figures are too optimistic.",
        pairs=t(", ").join(t("{one} and {other}", one=one, other=other) for one, other in pairs[:MAX_PAIRS])
        + ("..." if len(pairs) > MAX_PAIRS else ""),
    )
    return Notice("warning", t("Possible duplicates across the split: {n}", n=len(pairs)), text)


def _abstained(metrics: Metrics, t: Translator) -> Notice | None:
    abstained = metrics.abstained
    if abstained is None or not abstained.n:
        return None
    text = t(
        "{n} of {scans} predictions abstain: the scan is more out-of-distribution than {limit} of held-out scans, or "
        "outside the range of the development scans ({reasons}). Every figure on this page includes the calls that "
        "the network would have made for them. Without them: balanced accuracy {figure}.",
        n=abstained.n,
        scans=metrics.n_scans,
        limit=whole_percent(abstained.above),
        reasons=t(", ").join(
            t("{reason}: {n}", reason=t(_ABSTAINED.get(code, code)), n=n) for code, n in abstained.reasons.items()
        )
        or t("no reasons recorded"),
        figure=_with_interval(abstained.balanced_accuracy, t)
        + without(abstained.absent, abstained.balanced_accuracy, t),
    )
    return Notice("neutral", t("Some predictions abstain"), text)


def _with_interval(estimate: Estimate, t: Translator) -> str:
    if estimate.value is None:
        return t("undefined ({reason})", reason=estimate.reason or estimate.method)
    interval = percent_interval(estimate.ci95, t)
    return f"{percent(estimate)} ({interval})" if interval else percent(estimate)


def _calibrated_on_few(metrics: Metrics, t: Translator) -> Notice | None:
    few = [f"{name} ({n})" for name, n in metrics.calibrated_on.items() if n < FEW_PATIENTS]
    if not few:
        return None
    text = t(
        "Validation patients: {classes}. With fewer than {least} of a class, calibration learns little and stays "
        "close to the network's own probabilities: do not take them at face value.",
        classes=t(", ").join(few),
        least=FEW_PATIENTS,
    )
    return Notice("warning", t("Probabilities are calibrated on few patients"), text)


def _transfer(metrics: Metrics, t: Translator) -> Notice:
    gain = metrics.transfer_gain
    if gain is None:
        text = t(
            "No network trained from scratch was evaluated alongside this one, so nothing is known about gain or "
            "negative transfer."
        )
        return Notice("neutral", t("Transfer gain was not measured"), text)
    level, title, text = _GAIN[gain.verdict]
    if gain.verdict == "none":
        text = _WITHOUT_VERDICT.get(frozenset(side for side in gain.sides if side), text)
        text = _TOO_FEW_FOR_GAIN if gain.n_patients < MIN_PATIENTS_OF_GAIN else text
    text = t(text, least=MIN_PATIENTS_OF_GAIN)
    measured = t(
        "Transferred minus scratch: macro AUC {auc}; balanced accuracy {sensitivity}; {n} patients.",
        auc=difference(gain.macro_auc, t),
        sensitivity=difference(gain.balanced_sensitivity, t),
        n=gain.n_patients,
    )
    if metrics.repeats is not None:  # all other figures are of all repeats together
        measured += " " + t("Both networks are of the first repeat: only there was one trained from scratch.")
    return Notice(level, t(title), f"{text} {measured}")


def _kept_network(network: KeptNetwork | None, t: Translator) -> Notice | None:
    if network is None or network.validation is None:
        return None
    if network.fell_back:
        return Notice(
            "warning", t("The bundle contains the network trained from scratch"), t.translated(network.sentence)
        )
    return Notice("neutral", t("The bundle contains the transferred network"), t.translated(network.sentence))


def _fusion(fusion: FusionMetrics | None, t: Translator) -> Notice | None:
    """What the fused model brings over the network, what each part adds, and whose figures the page shows."""
    if fusion is None:
        return None
    shown = t("All figures outside the fusion table are the network's, from the image alone.")
    if fusion.report == "fused":
        shown = t("All figures outside the fusion table are the fused model's, except for transfer gain and training.")
    if not fusion.models:
        return Notice(
            "warning", t("No scan could be fused"), f"{'; '.join(map(t.translated, fusion.not_fused))}. {shown}"
        )
    over = fusion.fused_minus["image-only"].macro_auc
    level, title = _FUSION[over.excludes_zero]
    lost = "; ".join(
        f"{part} {difference(contribution.macro_auc, t)}" for part, contribution in fusion.contributions.items()
    )
    text = t(
        "Fused minus image-only: macro AUC {gain}. Lost without each part: {lost}.", gain=difference(over, t), lost=lost
    )
    return Notice(level, t(title), f"{text} {shown}")


def _leaks(fusion: FusionMetrics | None, t: Translator) -> Notice | None:
    if fusion is None or not fusion.warnings:
        return None
    text = "; ".join(map(t.translated, fusion.warnings))
    return Notice("warning", t("A clinical column may give the answer away"), f"{text[:1].upper()}{text[1:]}.")


def _gap(gap: GeneralisationGap | None, t: Translator) -> Notice | None:
    if gap is None or not gap.exceeded:
        return None
    text = t(
        "Balanced accuracy is {training} on training and {validation} on validation scans, a gap of {gap} (limit "
        "{limit}): the networks have memorised their training scans. See docs/transfer.md.",
        training=f"{gap.training_sensitivity:.2f}",
        validation=f"{gap.validation_sensitivity:.2f}",
        gap=f"{gap.difference:+.2f}",
        limit=f"{gap.limit:.2f}",
    )
    return Notice("warning", t("The networks overfit"), text)


def _baseline(metrics: Metrics, model: str, t: Translator) -> Notice | None:
    """Warn unless the model's macro AUC is above the handcrafted baseline's beyond doubt."""
    baseline = metrics.baselines.get(STRONGEST_BASELINE)
    gain = baseline and baseline.macro_auc_gain
    if gain is None or gain.value is None:
        return None
    if gain.excludes_zero > 0:
        level, title = "good", t("The {model} beats the handcrafted baseline", model=model)
        text = t("It beats a linear model on simple intensity and size features.")
    elif gain.value > 0:
        level, title = "warning", t("The {model} is not shown to beat the handcrafted baseline", model=model)
        text = t("It is ahead of a linear model on simple intensity and size features, but the interval includes 0.")
        if gain.ci95 is None:
            text = t(
                "It is ahead of a linear model on simple intensity and size features, but the uncertainty of this "
                "lead cannot be estimated."
            )
    elif gain.excludes_zero < 0:
        level, title = "warning", t("The {model} is worse than the handcrafted baseline", model=model)
        text = t("A linear model on simple intensity and size features, cheaper and easier to explain, is better.")
    else:
        level, title = "warning", t("The {model} does not beat the handcrafted baseline", model=model)
        text = t(
            "It is not ahead of a linear model on simple intensity and size features, which is cheaper and easier to "
            "explain."
        )
        if gain.ci95 is not None:
            text += " " + t("The interval includes 0, so neither is shown to be better.")
    measured = t("Model minus baseline: macro AUC {gain}.", gain=difference(gain, t))
    within = f" {t(FITTED_WITHIN)}" if metrics.external else ""
    return Notice(level, title, f"{text} {measured}{within}")


def _chance(metrics: Metrics, t: Translator) -> list[Notice]:
    """Classes whose scans the network ranks as a coin would: shown to be below an AUC of 0.5, or not to be above it."""
    measured = {name: one.auc for name, one in metrics.classes.items() if one.auc.value is not None}
    worse = {name: auc for name, auc in measured.items() if auc.ci95 and auc.ci95[1] < CHANCE}
    unclear = {name: auc for name, auc in measured.items() if name not in worse and _lower_limit(auc) <= CHANCE}
    candidates = (
        (worse, t("Worse than chance: {classes}", classes=t(", ").join(worse))),
        (unclear, t("Not shown to be better than chance: {classes}", classes=t(", ").join(unclear))),
    )
    return [
        Notice("warning", title, t("AUC (0.5 is chance): {figures}.", figures=_aucs(aucs, t)))
        for aucs, title in candidates
        if aucs
    ]


def _lower_limit(auc: Estimate) -> float:
    """The lower limit, where there is one."""
    return auc.ci95[0] if auc.ci95 else auc.value or 0.0


def _aucs(aucs: Mapping[str, Estimate], t: Translator) -> str:
    return "; ".join(
        t(
            "{name} {auc} (95 % CI {interval})",
            name=name,
            auc=decimal(auc),
            interval=decimal_interval(auc.ci95, t) or t("undefined"),
        )
        for name, auc in aucs.items()
    )


def _never_called(metrics: Metrics, t: Translator) -> Notice | None:
    """A high AUC hides that a class is never called: its sensitivity is 0 at this operating point."""
    never = [
        name
        for name, class_metrics in metrics.classes.items()
        if class_metrics.n and not class_metrics.counts.true_positive + class_metrics.counts.false_positive
    ]
    if not never:
        return None
    return Notice(
        "warning",
        t("Never called: {classes}", classes=t(", ").join(never)),
        t("No evaluated scan was called any of these. At this operating point they cannot be found, whatever the AUC."),
    )


def _failed(evidence: Evidence, t: Translator) -> Notice | None:
    """How many scans could not be used, and the commonest reasons."""
    failed = evidence.metrics.failed
    if not failed.n:
        return None
    reasons = list(failed.found.items())
    named = "; ".join(f"{t.translated(reason)} ({scans(n, t)})" for reason, n in reasons[:MAX_REASONS])
    rest = sum(n for _, n in reasons[MAX_REASONS:])
    return Notice(
        "warning",
        t("{n} of {asked} scans gave no prediction", n=failed.n, asked=evidence.n_asked),
        t("They are not included in any rate on this page. {reasons}.", reasons=named)
        + (" " + t("{n} more for other reasons, listed below.", n=rest) if rest else ""),
    )


def _few(metrics: Metrics, t: Translator) -> Notice | None:
    few = [
        f"{name} ({class_metrics.n})" for name, class_metrics in metrics.classes.items() if class_metrics.n < FEW_SCANS
    ]
    if metrics.multilabel:  # those without one of several classes are those of the others
        few += [
            t("without {name} ({n})", name=name, n=metrics.n_scans - class_metrics.n)
            for name, class_metrics in metrics.classes.items()
            if metrics.n_scans - class_metrics.n < FEW_SCANS
        ]
    if not few:
        return None
    return Notice(
        "warning",
        t("Too few scans to trust a rate"),
        t(
            "Fewer than {limit} evaluated scans: {classes}. Rely on the interval, not the point estimate.",
            limit=FEW_SCANS,
            classes=t(", ").join(few),
        ),
    )


def _few_patients(metrics: Metrics, t: Translator) -> Notice | None:
    """Scans of one patient are alike: many of few patients tell no more than these few."""
    few = [
        f"{name} ({class_metrics.n_patients})"
        for name, class_metrics in metrics.classes.items()
        if class_metrics.n_patients < FEW_SCANS <= class_metrics.n
    ]
    if not few:
        return None
    text = t(
        "Fewer than {limit} patients, however many scans each has: {classes}. Rely on the interval over patients (†), "
        "not the point estimate.",
        limit=FEW_SCANS,
        classes=t(", ").join(few),
    )
    return Notice("warning", t("Too few patients to trust a rate"), text)
