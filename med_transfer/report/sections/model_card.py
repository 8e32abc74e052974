"""What the model is, from what and with what it was made."""

from __future__ import annotations

from collections.abc import Iterable

from med_transfer.page import Translator, sentence
from med_transfer.report.evidence import Evidence
from med_transfer.report.numbers import duration
from med_transfer.report.section import Section
from med_transfer.report.table import Table

# Names of rows, as a bundle's model card and a run's configuration have them; what has no translation stays English
_ITEMS = (
    sentence("Intended use"),
    sentence("Classes"),
    sentence("Operating point"),
    sentence("Networks"),
    sentence("Transfer"),
    sentence("Fallback"),
    sentence("Backbone licence"),
    sentence("Backbone SHA-256"),
    sentence("Input"),
    sentence("Modality"),
    sentence("Intensities"),
    sentence("Spacing seen in training"),
    sentence("Calibration"),
    sentence("Prediction sets"),
    sentence("Fusion"),
    sentence("Cohort hash"),
    sentence("Network kept"),
    sentence("Training and validation"),
    sentence("Development scans"),
    sentence("Scans repaired"),
    sentence("Augmentation"),
    sentence("Class balance"),
    sentence("Early stopping"),
    sentence("Seed"),
)


def section(evidence: Evidence, t: Translator) -> Section:
    """This part of the report in the language of ``t``."""
    run = evidence.run
    model = [(t("Backbone"), run.backbone), (t("Licence of its weights"), run.backbone_licence), *run.model_card]
    tables = [_pairs("model", t("The model"), [*model, (t("Time"), duration(run.seconds))], t)]
    if run.config:
        tables.append(_pairs("configuration", t("Configuration; the whole of it is in config.yaml"), run.config, t))
    if run.software:
        tables.append(_pairs("software", t("Software"), run.software.items(), t))
    return Section(t("Model card"), tables)


def _pairs(name: str, caption: str, pairs: Iterable[tuple[str, str]], t: Translator) -> Table:
    rows = [(t.template(item), t.said(value)) for item, value in pairs]
    return Table(name, caption, (t("Item"), t("Value")), rows, kind="text")
