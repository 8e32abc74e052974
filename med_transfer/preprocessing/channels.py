"""Check that scans can be channels of one input: all present, of the right modality, at the same place.

Scans are not registered: voxels are matched by the patient coordinates in the files. Breathing or movement between two
scans of one frame of reference remains in the network's input.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from med_transfer.errors import InputRejected
from med_transfer.errors.numbers import rounded
from med_transfer.errors.sentence import Sentence
from med_transfer.preprocessing.config import FIRST_CHANNEL
from med_transfer.progress import remark
from med_transfer.scans import Volume, geometry
from med_transfer.scans.geometry import Grid
from med_transfer.scans.masks.mask_placement import misplaced
from med_transfer.scans.voxel_checks import hounsfield_doubt

log = logging.getLogger(__name__)

Scans = Mapping[str, Volume]  # the scans of a case, by column of the cohort table
MIN_OVERLAP = 0.5  # share of the first scan's visible part; edge voxels would fill the rest
_POINTS = 24  # along each axis of the grid; enough to estimate a share


def require_columns(columns: Iterable[str], volumes: Scans) -> None:
    """Refuse a case without a scan for one of the columns. Raises InputRejected."""
    missing = [column for column in columns if column not in volumes]
    if missing:
        raise InputRejected(
            Sentence("no scan for channel {names}", names=", ".join(missing)),
            where=volumes[FIRST_CHANNEL].provenance.path,
            expected="a scan in each of these columns of the table, as in training",
        )


def require_modality(volume: Volume, wanted: str | None) -> None:
    """Refuse a scan of another modality; one that states none is accepted, with a warning if it cannot be a CT.

    Args:
        volume: the scan.
        wanted: CT | MR | PT; None accepts every scan.

    Raises:
        InputRejected: DICOM Modality (0008,0060) is another one.
    """
    modality, where = volume.provenance.modality, volume.provenance.path
    if not wanted or modality == wanted:
        return
    if modality:
        raise InputRejected(
            Sentence("modality {modality}", modality=modality),
            where=where,
            expected=Sentence("{wanted}, as the preprocessing says", wanted=wanted),
            action=Sentence("Leave the scan out, or train with input.modality: {modality}", modality=modality),
        )
    if wanted == "CT" and (doubt := hounsfield_doubt(volume.voxels)):
        remark(log, "%s: states no modality and is taken for CT, but %s", where, doubt, kind=doubt)


def require_same_place(volumes: Scans, columns: Sequence[str], grid: Grid) -> None:
    """Refuse scans that do not cover the same place as the first one.

    Args:
        volumes: the scans of a case.
        columns: of the channels; the first one's scan defines the grid.
        grid: what the network sees.

    Raises:
        InputRejected: another DICOM Frame of Reference UID (0020,0052); an unknown position; less than half of what
            the network sees of the first scan is in the other one; or the same image twice.
    """
    first = volumes[columns[0]]
    for place, column in enumerate(columns[1:], start=1):
        other = volumes[column]
        same = next((name for name in columns[:place] if _same_image(volumes[name], other)), "")
        again = Sentence("is the same image as {column}", column=same) if same else ""
        _refuse(other, column, _reason(first, other, grid) or again)


def _refuse(other: Volume, column: str, reason: str) -> None:
    if reason:
        raise InputRejected(
            Sentence("{column}: {reason}", column=column, reason=reason),
            where=other.provenance.path,
            expected="a scan of the same place as the column scan",
            action="Register the scans first, or correct the table",
        )


def overlap(first: Volume, other: Volume, grid: Grid) -> float:
    """Share in [0, 1] of the grid's points inside the first scan that are also inside the other; 0 if none are."""
    points = geometry.to_world_mm(grid.affine, geometry.lattice(grid.shape, _POINTS))
    in_first = geometry.inside(first.affine, first.voxels.shape, points)
    in_other = geometry.inside(other.affine, other.voxels.shape, points[in_first])
    return float(in_other.mean()) if in_first.any() else 0.0


def _reason(first: Volume, other: Volume, grid: Grid) -> str:
    frames = {volume.provenance.frame_of_reference for volume in (first, other)} - {""}
    if len(frames) > 1:
        return Sentence("lies in another frame of reference than the column scan, so that positions cannot be compared")
    same_grid = first.voxels.shape == other.voxels.shape and np.allclose(first.affine, other.affine, atol=1e-3)
    if not same_grid and not (first.verdict.placed and other.verdict.placed):
        return Sentence("it or the column scan has no position in the patient, and the grids of the two differ")
    if not same_grid and other.provenance.format != "dicom" and (how := misplaced(other, first)):
        return how
    if not same_grid and first.provenance.format != "dicom" and (how := misplaced(first, other)):
        return Sentence("the column scan {how}", how=how)
    share = overlap(first, other, grid)
    if share < MIN_OVERLAP:
        return Sentence(
            "covers {share}% of what the network sees of scan, less than {least:.0%}",
            share=rounded(100 * share, 0, of=(0.0, 100 * MIN_OVERLAP)),
            least=MIN_OVERLAP,
        )
    return ""


def _same_image(first: Volume, other: Volume) -> bool:
    """Whether two scans have the same voxels, whatever the order of their axes and their position."""
    (one, _), (two, _) = (geometry.canonical(volume.voxels, volume.affine) for volume in (first, other))
    return np.array_equal(one, two)
