"""Acquisition parameters of a scan, read from its file, for subgroup analysis and the detection of shortcuts.

A network can learn the scanner instead of the disease where the two are correlated (Zech et al. 2018, PLoS Med
15:e1002683). Only the facts listed here are kept: no date, no identifier, no free text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from med_transfer.scans import Volume
from med_transfer.scans.search.description import states_contrast

TEXT_FACTS: tuple[str, ...] = ("file_format", "manufacturer", "scanner_model", "kernel", "contrast_agent")
NUMBER_FACTS: tuple[str, ...] = (
    *("slice_thickness_mm", "slice_spacing_mm", "pixel_spacing_mm"),
    *("n_slices", "n_rows", "n_columns", "tube_voltage_kv", "field_strength_t"),
)
_KEYWORDS = {  # fact to DICOM keyword
    "manufacturer": "Manufacturer",
    "scanner_model": "ManufacturerModelName",
    "kernel": "ConvolutionKernel",
    "slice_thickness_mm": "SliceThickness",
    "tube_voltage_kv": "KVP",
    "field_strength_t": "MagneticFieldStrength",
}
_DIGITS = 4  # so that spacings of 0.70312500001 and 0.703125 count as one protocol

Facts = Mapping[str, str | float]


def acquisition_facts(volume: Volume) -> dict[str, str | float]:
    """Return the acquisition parameters of a scan; a fact that its file does not state is absent.

    ``pixel_spacing_mm`` is measured along a row and ``slice_spacing_mm`` between stored slices; ``n_rows`` x
    ``n_columns`` is the matrix, for a cropped scan that of the crop.
    """
    header, (depth, height, width) = volume.provenance.acquisition, volume.voxels.shape
    column_mm, _, slice_mm = volume.spacing_mm
    stated = {name: header.get(keyword, "").strip() for name, keyword in _KEYWORDS.items()}
    facts: dict[str, str | float] = {"file_format": volume.provenance.format}
    facts |= {name: text for name, text in stated.items() if name in TEXT_FACTS and text}
    facts |= {"contrast_agent": "stated" if states_contrast(header) else "none stated"} if header else {}
    numbers = {name: _number(stated.get(name, "")) for name in NUMBER_FACTS}
    numbers |= {"slice_spacing_mm": slice_mm, "pixel_spacing_mm": column_mm}
    numbers |= {"n_slices": float(depth), "n_rows": float(height), "n_columns": float(width)}
    return facts | {name: round(float(value), _DIGITS) for name, value in numbers.items() if math.isfinite(value)}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
