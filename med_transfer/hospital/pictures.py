"""What the review page's viewer shows of a series, as NIfTI files in the node's folder: its voxels, and the heat map.

Both lie on the same voxels: the map is written when the series is analysed, the voxels when somebody first looks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from med_transfer.scans import read_scan
from med_transfer.scans.formats.nifti_file import write_nifti_file

if TYPE_CHECKING:  # the process that reads scans need not load a network's libraries
    from med_transfer.hospital.analysis import Analysis

_STEPS = 255  # of the map, which a byte holds


def keep_map(folder: Path, study: str, basis: str, number: int, analysis: Analysis) -> str:
    """Write the map of a study's ``number``-th series; its name in the node's folder, empty where there is none.

    Raises:
        OutputError: it cannot be written.
    """
    if analysis.heat is None or analysis.volume is None or not np.nanmax(analysis.heat.values, initial=0) > 0:
        return ""
    file = f"viewer/{study}/{basis[:16]}-{number}.nii.gz"
    write_nifti_file(folder / file, _in_steps(analysis.heat.values), analysis.volume.affine, 1 / _STEPS)
    return file


def _in_steps(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Share of the strongest value; what speaks against the class, and what the network did not see, is 0."""
    share = np.clip(np.nan_to_num(heat) / np.nanmax(heat), 0, 1)
    return np.rint(share * _STEPS).astype(np.uint8)


def volume_file(study: str, images: Iterable[tuple[str, str]], series_uid: str) -> str:
    """Where a series' voxels are kept: a name that changes with the study's images, given as UID and hash."""
    content = "\n".join([series_uid, *(f"{uid} {sha256}" for uid, sha256 in images)])
    return f"viewer/{study}/{hashlib.sha256(content.encode()).hexdigest()[:16]}.nii.gz"


def write_volume(images: Path, series_uid: str, max_gap_mm: float, path: Path) -> None:
    """Read a series of a folder and write its voxels, HU for CT. Raises ScanError, OutputError."""
    volume = read_scan(images, series_uid, max_gap_mm=max_gap_mm)
    write_nifti_file(path, volume.voxels, volume.affine)
