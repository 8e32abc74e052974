"""What the model is, from what and with what it was made."""

from __future__ import annotations

from collections.abc import Iterable

from med_transfer.errors.sentence import Sentence
from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.numbers import duration
from med_transfer.report.run_summary import translated_value
from med_transfer.report.section import Section
from med_transfer.report.table import Table


def section(evidence: Evidence, t: Translator) -> Section:
    """This part of the report in the language of ``t``."""
    run = evidence.run
    backbone = [(t("Backbone"), run.backbone), (t("Licence of the weights"), run.backbone_licence)]
    model = run.model_card or backbone  # a bundle's card names its backbone
    tables = [_pairs("model", t("The model"), [*model, (t("Time"), duration(run.seconds))], t)]
    if run.config:
        tables.append(_pairs("configuration", t("Configuration (complete in config.yaml)"), run.config, t))
    if run.software:
        tables.append(_pairs("software", t("Software"), run.software.items(), t))
    return Section(t("Model card"), tables)


def _pairs(name: str, caption: str, pairs: Iterable[tuple[str, str]], t: Translator) -> Table:
    rows = [(t.translated(Sentence.of(item)), translated_value(value, t)) for item, value in pairs]
    return Table(name, caption, (t("Item"), t("Value")), rows, kind="text")
