"""The evaluated model and its baselines, and what the transfer gained."""

from __future__ import annotations

from collections.abc import Callable

from med_transfer.metrics.records.metrics import BaselineMetrics, Metrics, TransferGain
from med_transfer.page import Translator, sentence
from med_transfer.report.evidence import Evidence
from med_transfer.report.section import Section
from med_transfer.report.table import Cell, Table, estimated

_BASELINES = {
    "prevalence": sentence("prevalence"),
    "handcrafted": sentence("handcrafted"),
    "acquisition": sentence("acquisition"),
}
_VERDICTS = {"gain": sentence("gain"), "none": sentence("neither gain nor harm shown"), "harm": sentence("harm")}


def section(evidence: Evidence, t: Translator) -> Section | None:
    """This part of the report in the language of ``t``; None where there is nothing to show."""
    metrics = evidence.metrics
    tables = []
    if metrics.baselines:
        tables.append(_baselines(metrics, t(evidence.model), t))
    if metrics.transfer_gain:
        tables.append(_gain(metrics.transfer_gain, t))
    return Section(t("Comparisons"), tables) if tables else None


def _baselines(metrics: Metrics, model: str, t: Translator) -> Table:
    def row(title: str, of_model: Cell | str, of_baseline: Callable[[BaselineMetrics], Cell]) -> list[Cell | str]:
        return [title, of_model, *(of_baseline(baseline) for baseline in metrics.baselines.values())]

    rows = [
        row(t("Macro AUC"), estimated(metrics.macro_auc, "decimal", t), lambda b: estimated(b.macro_auc, "decimal", t)),
        row(
            t("Macro AUC, {model} minus baseline", model=model),
            "",
            lambda b: estimated(b.macro_auc_gain, "signed", t),
        ),
        row(
            t("Balanced accuracy"),
            estimated(metrics.balanced_accuracy, "percent", t),
            lambda b: estimated(b.balanced_accuracy, "percent", t),
        ),
        *(
            row(
                t("Sensitivity, {name}", name=name),
                estimated(metrics.classes[name].sensitivity, "percent", t),
                lambda b, name=name: estimated(b.sensitivity[name], "percent", t),
            )
            for name in metrics.labels
        ),
        row(
            t("Brier score"),
            estimated(metrics.calibration.brier, "decimal", t),
            lambda b: estimated(b.brier, "decimal", t),
        ),
    ]
    caption = t("The {model} and its baselines, on the same scans", model=model)
    names = (t(_BASELINES[name]) if name in _BASELINES else name for name in metrics.baselines)
    return Table("baselines", caption, (t("Measure"), model.capitalize(), *names), rows)


def _gain(gain: TransferGain, t: Translator) -> Table:
    return Table(
        "transfer-gain",
        t(
            "Transfer gain: pretrained minus from scratch, the same network at equal budget; verdict: {verdict}",
            verdict=t(_VERDICTS[gain.verdict]),
        ),
        (t("Measure"), t("Difference")),
        [
            (t("Macro AUC"), estimated(gain.macro_auc, "signed", t)),
            (t("Balanced accuracy"), estimated(gain.balanced_sensitivity, "signed", t)),
        ],
    )
