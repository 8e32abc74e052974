"""Descriptions of series and volumes as text."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors.sentence import Sentence
from med_transfer.scans.series import Series, Survey
from med_transfer.scans.volume import Volume
from med_transfer.scans.voxel_checks import hounsfield_doubt

_SAMPLE = 2_000_000  # voxels used for percentiles and histograms
_NO_AGENT = ("", "NO", "NONE", "N")  # entered if no agent was given
_ACQUISITION = (  # DICOM keyword, label, unit
    ("Manufacturer", Sentence("manufacturer"), ""),
    ("ManufacturerModelName", Sentence("model"), ""),
    ("BodyPartExamined", Sentence("body part"), ""),
    ("PatientPosition", Sentence("patient position"), ""),
    ("ImageType", Sentence("image type"), ""),
    ("SliceThickness", Sentence("slice thickness"), " mm"),
    ("ConvolutionKernel", Sentence("kernel"), ""),
    ("KVP", Sentence("tube voltage"), " kV"),
    ("GantryDetectorTilt", Sentence("declared gantry tilt"), " degrees"),
    ("MagneticFieldStrength", Sentence("field strength"), " T"),
    ("ScanningSequence", Sentence("sequence"), ""),
    ("RepetitionTime", Sentence("repetition time"), " ms"),
    ("EchoTime", Sentence("echo time"), " ms"),
    ("ScanOptions", Sentence("scan options"), ""),
)


def describe_series(series: Series) -> dict[str, str]:
    """Describe a series from its headers: path, name, kind, number of files, verdict."""
    return {
        "series": str(series.path),
        "series_uid": series.name,
        "kind": f"{series.format} {series.modality}".strip(),
        "files": str(len(series.files)),
        "verdict": str(series.verdict),
    }


def describe_volume(volume: Volume) -> dict[str, str]:
    """Describe a volume that was read: kind, verdict, voxels, spacing, orientation, values."""
    depth, height, width = volume.voxels.shape
    low, middle, high = np.percentile(sample(volume.voxels), [1, 50, 99])
    unit = " HU" if is_hounsfield(volume) else ""
    return {
        "kind": f"{volume.provenance.format} {volume.provenance.modality}".strip(),
        "verdict": str(volume.verdict),
        "voxels": Sentence("{size} (column, row, slice)", size=f"{width} x {height} x {depth}"),
        "spacing_mm": " x ".join(f"{mm:.3f}" for mm in volume.spacing_mm),
        "orientation": Sentence("{letters} (columns, rows, slices grow to)", letters=volume.orientation),
        "values": Sentence(
            "1 % {low:.0f}, median {middle:.0f}, 99 % {high:.0f}{unit}", low=low, middle=middle, high=high, unit=unit
        ),
    }


def describe_acquisition(acquisition: Mapping[str, str]) -> dict[str, str]:
    """Acquisition parameters, label to value; of the contrast agent, which is free text, only whether one is named."""
    rows: dict[str, str] = {
        label: _tidy(acquisition[keyword]) + unit for keyword, label, unit in _ACQUISITION if acquisition.get(keyword)
    }
    if not rows:
        return {}
    stated = Sentence("stated") if states_contrast(acquisition) else Sentence("none stated")
    return rows | {Sentence("contrast agent"): stated}


def _tidy(text: str) -> str:
    """``5`` for ``5.000000``; other text is unchanged."""
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def states_contrast(acquisition: Mapping[str, str]) -> bool:
    """Whether the header names a contrast agent (ContrastBolusAgent, 0018,0010)."""
    return acquisition.get("ContrastBolusAgent", "").strip().upper() not in _NO_AGENT


def count_files(survey: Survey) -> int:
    """Number of files in a survey, as part of a series or ignored."""
    return len({path for series in survey.series for path in series.files} | {file.path for file in survey.ignored})


def is_hounsfield(volume: Volume) -> bool:
    """Whether values are in Hounsfield units: the modality is CT, or it is unknown and the values look like CT."""
    modality = volume.provenance.modality
    return modality == "CT" or (not modality and not hounsfield_doubt(volume.voxels))


def sample(voxels: NDArray) -> NDArray:
    """At most two million voxels, evenly spaced over the volume, as a one-dimensional array."""
    step = voxels.size // _SAMPLE + 1
    while gcd(step, voxels.size) > 1:  # otherwise all samples might fall into the same columns
        step += 1
    return voxels.ravel()[::step]
