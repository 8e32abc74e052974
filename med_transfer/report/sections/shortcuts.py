"""Does it cheat: how far the label can be told from how the scan was made."""

from __future__ import annotations

from med_transfer.metrics.records.metrics import Metrics
from med_transfer.metrics.records.shortcuts import ACQUISITION_BASELINE, Shortcuts
from med_transfer.page import Translator, sentence
from med_transfer.report.acquisition_name import acquisition_cell, acquisition_name
from med_transfer.report.evidence import Evidence
from med_transfer.report.section import LeftOut, Section
from med_transfer.report.table import Table, estimated


def section(evidence: Evidence, t: Translator) -> Section | LeftOut | None:
    """This part of the report in the language of ``t``; None where there is nothing to show."""
    shortcuts = evidence.metrics.shortcuts
    if shortcuts is None:
        return None
    tables = [_facts(shortcuts, t, external=evidence.metrics.external)] if shortcuts.facts else []
    if ACQUISITION_BASELINE in evidence.metrics.baselines:
        tables.insert(0, _test(evidence.metrics, t(evidence.model), t))
    if not tables:
        return LeftOut(t("Shortcuts"), t("no acquisition parameter differs between the scans"))
    constant = t(", ").join(acquisition_name(name, t) for name in shortcuts.constant)
    return Section(t("Shortcuts"), tables, values={"constant": constant})


def _test(metrics: Metrics, model: str, t: Translator) -> Table:
    acquisition = metrics.baselines[ACQUISITION_BASELINE]
    return Table(
        "test",
        t("The acquisition alone and the {model}, on the same scans; 0.5 is chance", model=model),
        (t("Model"), t("Macro AUC")),
        [
            (t("Acquisition alone"), estimated(acquisition.macro_auc, "decimal", t)),
            (model.capitalize(), estimated(metrics.macro_auc, "decimal", t)),
            (t("Difference"), estimated(acquisition.macro_auc_gain, "signed", t)),
        ],
    )


def _facts(shortcuts: Shortcuts, t: Translator, *, external: bool) -> Table:
    caption = sentence(
        "Each acquisition parameter alone and all together, cross-validated by patient on {scans} development scans "
        "of {patients} patients"
    )
    if external:
        caption = sentence(
            "Each acquisition parameter alone and all together, cross-validated by patient on these {scans} scans of "
            "{patients} patients"
        )
    return Table(
        "facts",
        t(caption, scans=shortcuts.n_scans, patients=shortcuts.n_patients),
        (t("Parameter"), t("Macro AUC")),
        [
            *(
                (acquisition_cell(name, t), estimated(macro_auc, "decimal", t))
                for name, macro_auc in shortcuts.facts.items()
            ),
            (t("All together"), estimated(shortcuts.macro_auc, "decimal", t)),
        ],
        total=True,
    )
