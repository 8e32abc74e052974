"""NIfTI files for the review page's viewer, in the node's folder: a series' voxels and its heat map.

Both have the same grid. The map is written when the series is analysed, the voxels when they are first viewed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from med_transfer.scans import read_scan
from med_transfer.scans.formats.nifti_file import write_nifti_file

if TYPE_CHECKING:  # spares the process that reads scans the libraries for networks
    from med_transfer.hospital.analysis import Analysis

_STEPS = 255  # levels of the map, stored as uint8


def keep_map(folder: Path, study: str, basis: str, number: int, analysis: Analysis) -> str:
    """Write the heat map of a study's ``number``-th series.

    Returns:
        Its path relative to the node's folder; empty if there is no map.

    Raises:
        OutputError: it cannot be written.
    """
    if analysis.heat is None or analysis.volume is None or not np.nanmax(analysis.heat.values, initial=0) > 0:
        return ""
    file = f"viewer/{study}/{basis[:16]}-{number}.nii.gz"
    steps = np.rint(analysis.heat.share * _STEPS).astype(np.uint8)
    write_nifti_file(folder / file, steps, analysis.volume.affine, 1 / _STEPS)
    return file


def volume_file(study: str, images: Iterable[tuple[str, str]], series_uid: str) -> str:
    """Path of a series' voxels, relative to the node's folder; it depends on the study's images, as (UID, hash)."""
    content = "\n".join([series_uid, *(f"{uid} {sha256}" for uid, sha256 in images)])
    return f"viewer/{study}/{hashlib.sha256(content.encode()).hexdigest()[:16]}.nii.gz"


def write_volume(images: Path, series_uid: str, max_gap_mm: float, path: Path) -> None:
    """Read a series from a folder and write its voxels (HU for CT) as NIfTI. Raises ScanError, OutputError."""
    volume = read_scan(images, series_uid, max_gap_mm=max_gap_mm)
    write_nifti_file(path, volume.voxels, volume.affine)
