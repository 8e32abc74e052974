"""The network's output joined with handcrafted features and clinical columns."""

from __future__ import annotations

from med_transfer.metrics.records.fusion import FusionMetrics
from med_transfer.page import Translator, sentence
from med_transfer.report.evidence import Evidence
from med_transfer.report.numbers import patients, scans
from med_transfer.report.section import Section
from med_transfer.report.table import Cell, Table, estimated

_PARTS = {
    "fused": sentence("fused"),
    "image-only": sentence("image-only"),
    "handcrafted-only": sentence("handcrafted-only"),
    "columns-only": sentence("columns-only"),
    "network": sentence("network"),
    "handcrafted": sentence("handcrafted"),
    "columns": sentence("columns"),
}


def section(evidence: Evidence, t: Translator) -> Section | None:
    """This part of the report in the language of ``t``; None where there is nothing to show."""
    fusion = evidence.metrics.fusion
    if fusion is None:
        return None
    tables = [_models(fusion, evidence.metrics.labels, t), _contributions(fusion, t)] if fusion.models else []
    joined = [t("handcrafted features (size and intensity)")] if "handcrafted" in fusion.use else []
    joined += [t("clinical columns ({names})", names=t(", ").join(fusion.columns))] if fusion.columns else []
    return Section(t("Fusion"), tables, values={"joined": t(" and ").join(joined)})


def _models(fusion: FusionMetrics, labels: list[str], t: Translator) -> Table:
    models, minus = fusion.models.values(), fusion.fused_minus.values()
    none = Cell("")
    rows = [
        [t("Macro AUC"), *(estimated(m.macro_auc, "decimal", t) for m in models)],
        [t("Macro AUC, fused minus this"), *(estimated(d.macro_auc, "signed", t) for d in minus), none],
        [t("Balanced accuracy"), *(estimated(m.balanced_accuracy, "percent", t) for m in models)],
        [t("Balanced accuracy, fused minus this"), *(estimated(d.balanced_accuracy, "signed", t) for d in minus), none],
        *(
            [t("Sensitivity, {name}", name=name), *(estimated(m.sensitivity[name], "percent", t) for m in models)]
            for name in labels
        ),
    ]
    caption = t(
        "Each model on the same test scans ({scans} of {patients}). Where the interval of a difference includes 0, no "
        "difference is shown.",
        scans=scans(fusion.n_scans, t),
        patients=patients(fusion.n_patients, t),
    )
    names = [t(_PARTS.get(name, name)).capitalize() for name in fusion.models]
    return Table("models", caption, (t("Measure"), *names), rows)


def _contributions(fusion: FusionMetrics, t: Translator) -> Table:
    return Table(
        "contributions",
        t("What each part adds: the fused model minus the same model fitted without it"),
        (t("Part left out"), t("Macro AUC lost"), t("Balanced accuracy lost")),
        [
            (
                t(_PARTS.get(part, part)).capitalize(),
                estimated(lost.macro_auc, "signed", t),
                estimated(lost.balanced_accuracy, "signed", t),
            )
            for part, lost in fusion.contributions.items()
        ],
    )
