"""A series in words and as a picture, for a person who wants to know what was found."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from med_transfer import geometry
from med_transfer.atomic import atomic_path
from med_transfer.errors import ScanError, ScanNotFound
from med_transfer.scans.picture import three_planes
from med_transfer.scans.reading import read_scan
from med_transfer.scans.series import Series


def describe_series(series: Series) -> dict[str, str]:
    """Rows of text: path, kind, verdict; and size, spacing, orientation, values when it can be read."""
    rows = {
        "series": str(series.path),
        "series_uid": series.series_uid,
        "kind": " ".join(filter(None, [series.format, series.modality])),
        "verdict": str(series.verdict),
    }
    if not series.verdict.usable:
        return rows
    try:
        volume = read_scan(series)
    except ScanError as error:
        return rows | {"verdict": f"reject: {error}"}
    depth, height, width = volume.voxels.shape
    low, middle, high = np.percentile(volume.voxels[::2, ::4, ::4], [1, 50, 99])
    return rows | {
        "verdict": str(volume.verdict),
        "voxels": f"{width} x {height} x {depth} (column, row, slice)",
        "spacing_mm": " x ".join(f"{mm:.3f}" for mm in volume.spacing_mm),
        "orientation": f"{volume.orientation} (columns, rows, slices grow to)",
        "values": f"1 % {low:.0f}, median {middle:.0f}, 99 % {high:.0f}" + (" HU" if series.modality == "CT" else ""),
    }


def write_picture(series: Series | None, path: Path, window_hu: tuple[float, float] = (-1000.0, 400.0)) -> None:
    """PNG of the three middle planes, window -1000 to 400 HU for CT, with anatomical letters.

    Raises:
        ScanNotFound: there is no usable series.
        ScanError: it cannot be read. OutputError: the picture cannot be written.
    """
    if series is None:
        raise ScanNotFound("no usable series to draw", action="See the verdicts")
    volume = read_scan(series)
    voxels, affine = geometry.canonical(volume.voxels, volume.affine)
    shown = np.clip(voxels, *window_hu) if series.modality in ("CT", "") else voxels
    column, row, slice_ = geometry.spacing_mm(affine)
    with atomic_path(path) as temporary:
        temporary.write_bytes(three_planes(shown, "SPL", (slice_, row, column)))
