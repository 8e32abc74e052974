"""Names of acquisition parameters in the language of the page."""

from __future__ import annotations

from med_transfer.page import Translator, sentence
from med_transfer.report.table import Cell

# By the facts of cohorts.acquisition, which metrics.json and the CSV tables name.
_NAMES = {
    "file_format": sentence("file format"),
    "manufacturer": sentence("manufacturer"),
    "scanner_model": sentence("scanner model"),
    "kernel": sentence("reconstruction kernel"),
    "contrast_agent": sentence("contrast agent stated"),
    "slice_thickness_mm": sentence("slice thickness (mm)"),
    "slice_spacing_mm": sentence("slice spacing (mm)"),
    "pixel_spacing_mm": sentence("pixel spacing (mm)"),
    "n_slices": sentence("number of slices"),
    "n_rows": sentence("number of rows"),
    "n_columns": sentence("number of columns"),
    "tube_voltage_kv": sentence("tube voltage (kV)"),
    "field_strength_t": sentence("field strength (T)"),
}


def acquisition_name(fact: str, t: Translator) -> str:
    """Return the name of a fact, as ``slice thickness (mm)``; one of another version is named as it is stored."""
    return t(_NAMES[fact]) if fact in _NAMES else fact


def acquisition_cell(fact: str, t: Translator) -> Cell:
    """Return the name of a fact as a cell, which the CSV holds as it is stored."""
    return Cell(acquisition_name(fact, t), values={"": fact})
