"""Reads one mask, of any format, as 0 and 1 on the scan's grid or on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import AmbiguousScan, GeometryRejected, ScanNotFound, UnreadableScan, UnusableVoxels
from med_transfer.scans.library_noise import silence_readers
from med_transfer.scans.masks.mask_placement import onto_grid, require_same_frame
from med_transfer.scans.masks.region_object import object_kind
from med_transfer.scans.masks.segmentation import read_segmentation
from med_transfer.scans.masks.structure_set import read_structure_set
from med_transfer.scans.reading import read_volume
from med_transfer.scans.search.files import require_exists
from med_transfer.scans.search.survey import survey
from med_transfer.scans.series import Series
from med_transfer.scans.verdict import Verdict
from med_transfer.scans.volume import Volume

_MAX_NAMED = 20  # label values that one message lists


def read_mask(path: Path | str, onto: Volume | None = None, name: str = "") -> Volume:
    """A region of interest: int16 voxels, 1 in the region and 0 elsewhere.

    Args:
        path: a NIfTI, NRRD or MetaImage file, a DICOM SEG or RTSTRUCT file, or a folder that holds one of these or
            a series of mask images (where it holds a SEG or RTSTRUCT, any series beside that is taken for the scan).
        onto: the scan. The result has its grid; a voxel belongs to the region when its middle does
            (see :func:`.mask_placement.onto_grid`). Without it the result keeps the mask's own grid.
        name: which segment (SegmentLabel, SegmentNumber), ROI (ROIName, ROINumber) or, in a mask file, label value.
            Without it a SEG or RTSTRUCT must hold a single one, and in a mask file every non-zero voxel counts.

    Raises:
        ScanNotFound: no such file, segment, ROI or label value.
        AmbiguousScan: several masks, segments or ROIs and no name to pick one; the message lists them.
        GeometryRejected: the mask was not drawn on this scan (another frame of reference; outside it or reaching
            beyond it, and how far), cannot be placed, or needs a scan to have a grid at all.
        UnusableVoxels: an empty mask, an ROI without contours, values that are no labels.
        NotAScan, UnreadableScan, MissingCodec: as their names say.
    """
    silence_readers()
    path = Path(path)
    require_exists(path)
    source = _in_folder(path) if path.is_dir() else path
    if isinstance(source, Series) or not (kind := object_kind(source)):
        parts = [_read_labels(source, name)]
    elif kind == "SEG":
        parts = read_segmentation(source, name)
    elif onto is not None:
        parts = [read_structure_set(source, onto, name)]
    else:
        raise GeometryRejected("contours have no grid of their own", where=source, expected="the scan beside them")
    return _placed(parts, onto)


def _in_folder(folder: Path) -> Path | Series:
    contents = survey(folder)
    # A label map may pass for a series of images: its SOP class is younger than pydicom's list.
    unknown = [file for series in contents.series if series.modality == "SEG" for file in series.files]
    objects = [path for path in (*(file.path for file in contents.ignored), *unknown) if object_kind(path)]
    candidates = objects or list(contents.series)
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        names = ", ".join(_named(candidate) for candidate in candidates)
        raise AmbiguousScan(f"{len(candidates)} masks: {names}", where=folder, expected="one", action="Name its file")
    for file in contents.ignored:
        if file.damaged:
            raise UnreadableScan(file.reason, where=file.path)
    raise ScanNotFound("no mask", where=folder, expected="a mask file, or a DICOM SEG, RTSTRUCT or series")


def _named(candidate: Path | Series) -> str:
    return candidate.name if isinstance(candidate, Path) else candidate.name or candidate.files[0].name


def _read_labels(source: Path | Series, name: str) -> Volume:
    """A mask file or series as bool voxels."""
    volume = read_volume(source)
    voxels, where = volume.voxels, volume.provenance.path
    _require_labels(voxels, where)
    present = voxels == _label_value(voxels, name, where) if name else voxels != 0
    return replace(volume, voxels=present, verdict=_without_doubts(volume.verdict))


def _without_doubts(verdict: Verdict) -> Verdict:
    """What was repaired, and that nothing says where the voxels lie; not that they are no Hounsfield units."""
    return verdict if verdict.repairs else Verdict(placed=verdict.placed)


def _require_labels(voxels: NDArray, where: Path) -> None:
    expected = "0 outside the region and whole numbers inside"
    if voxels.min() < 0:
        raise UnusableVoxels(f"values from {voxels.min():g}: a scan rather than a mask", where=where, expected=expected)
    if voxels.dtype.kind != "f":
        return
    present = voxels[voxels != 0]
    if present.size and present.min() != present.max() and not np.array_equal(np.rint(present), present):
        raise UnusableVoxels(
            "values between whole numbers, as in a map of probabilities",
            where=where,
            expected=expected,
            action="Write a mask with the voxels above your threshold",
        )


def _label_value(voxels: NDArray, name: str, where: Path) -> int:
    values = [int(value) for value in np.unique(voxels) if value != 0]
    wanted = next((value for value in values if str(value) == name.strip()), None)
    if wanted is None:
        listed = ", ".join(str(value) for value in values[:_MAX_NAMED]) + (" ..." if len(values) > _MAX_NAMED else "")
        raise ScanNotFound(f"no voxel has the label {name!r}", where=where, expected=f"one of {listed or 'none'}")
    return wanted


def _placed(parts: Sequence[Volume], onto: Volume | None) -> Volume:
    mask = parts[0]
    where = mask.provenance.path
    if not any(part.voxels.any() for part in parts):
        raise UnusableVoxels("the mask is empty", where=where, expected="at least one non-zero voxel")
    if onto is not None:
        require_same_frame(mask.provenance, onto.provenance)
        mask = replace(mask, voxels=onto_grid(parts, onto), affine=onto.affine)
    elif len(parts) > 1:
        raise GeometryRejected("the frames form no regular grid", where=where, expected="the scan, to place them on")
    return replace(mask, voxels=mask.voxels.astype(np.int16))
