"""Read one mask of any format as 0 and 1, on the scan's grid or on its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import (
    AmbiguousScan,
    GeometryRejected,
    ScanNotFound,
    UnreadableScan,
    UnusableVoxels,
    given_path,
)
from med_transfer.errors.sentence import Sentence, few
from med_transfer.scans.formats.itk import FORMATS
from med_transfer.scans.formats.nifti import SUFFIXES
from med_transfer.scans.library_noise import silence_readers
from med_transfer.scans.masks.mask_placement import onto_grid, require_same_frame
from med_transfer.scans.masks.region_object import object_kind, whole
from med_transfer.scans.masks.segmentation import read_segmentation
from med_transfer.scans.masks.structure_set import read_structure_set
from med_transfer.scans.reading import read_volume
from med_transfer.scans.search.files import require_exists
from med_transfer.scans.search.survey import survey
from med_transfer.scans.series import Series
from med_transfer.scans.verdict import Verdict
from med_transfer.scans.volume import Volume

_MAX_NAMED = 20  # files or label values listed in one message
_FEWEST_PAIRS = 50  # pairs of neighbouring voxels needed to tell a scan from a few small labels
_ENDINGS = (*SUFFIXES, *FORMATS)  # of mask files


def read_mask(path: Path | str, onto: Volume | None = None, name: str = "") -> Volume:
    """Read a region of interest as int16 voxels [depth, height, width], 1 in the region and 0 elsewhere.

    Args:
        path: a NIfTI, NRRD or MetaImage file, a DICOM SEG or RTSTRUCT file, or a folder that contains one of these or
            a series of mask images (beside a SEG or RTSTRUCT, a series is taken for the scan). A folder with one file
            per organ, as TotalSegmentator writes it, needs a name.
        onto: the scan, whose grid the result gets; a voxel belongs to the region if its centre does (see
            :func:`.mask_placement.onto_grid`). None to keep the mask's own grid.
        name: the segment (SegmentLabel, SegmentNumber), ROI (ROIName, ROINumber), label value of a mask file, or file
            of a folder without its suffix. Several label values or files are joined by ``+``, as in
            ``kidney_left + kidney_right``; an empty one adds nothing. Without a name, a SEG or RTSTRUCT must contain a
            single region, and in a mask file every non-zero voxel counts.

    Raises:
        ScanNotFound: no such file, segment, ROI or label value.
        AmbiguousScan: several masks, segments or ROIs match; the message lists them.
        GeometryRejected: the mask was not drawn on this scan (another frame of reference, or outside the scan or
            extending beyond it), its position is unknown, or it has no grid without a scan.
        UnusableVoxels: an empty mask, an ROI without contours, or values that are not labels.
        NotAScan, UnreadableScan, MissingCodec: as for :func:`~med_transfer.scans.read_scan`.
    """
    silence_readers()
    path = given_path(path, "mask", "the path of a mask")
    require_exists(path)
    if path.is_dir() and (files := _named_files(path, name)):
        return _placed(_on_one_grid([_read_labels(file, "") for file in files]), onto)
    source = _in_folder(path, name) if path.is_dir() else path
    if isinstance(source, Series) or not (kind := object_kind(source)):
        parts = [_read_labels(source, name)]
    elif kind == "SEG":
        parts = read_segmentation(source, name, onto)
    elif onto is not None:
        parts = [read_structure_set(source, onto, name)]
    else:
        raise GeometryRejected("contours have no grid of their own", where=source, expected="the scan beside them")
    return _placed(parts, onto)


def _named_files(folder: Path, name: str) -> list[Path]:
    """The mask files in a folder that a name refers to; empty if it refers to something else.

    Raises:
        ScanNotFound: only some of them exist.
        AmbiguousScan: two files differ only in their suffix.
    """
    wanted, files = _several(name), []
    with suppress(PermissionError):  # reported by the survey of the folder
        files = [file for file in sorted(folder.iterdir()) if file.name.lower().endswith(_ENDINGS)]
    there = {_stem(file): file for file in files}
    if twice := [file for file in files if _stem(file) in wanted and file != there[_stem(file)]]:
        alike = [file.name for file in files if _stem(file) == _stem(twice[0])]
        found = Sentence("{n} masks: {names}", n=len(alike), names=few(alike, _MAX_NAMED))
        raise AmbiguousScan(found, where=folder, expected="one", action="Name its file")
    found = [there[one] for one in wanted if one in there]
    if found and len(found) < len(wanted):
        missing = next(one for one in wanted if one not in there)
        raise _no_file(missing, folder, there)
    return found


def _no_file(name: str, folder: Path, there: Iterable[str]) -> ScanNotFound:
    return ScanNotFound(
        Sentence("no mask file {name!r}", name=name),
        where=folder,
        expected=Sentence("one of {names}", names=few(sorted(there), _MAX_NAMED)),
    )


def _stem(file: Path) -> str:
    return next(file.name[: -len(end)] for end in _ENDINGS if file.name.lower().endswith(end))


def _several(name: str) -> list[str]:
    return [part.strip() for part in name.split("+") if part.strip()]


def _on_one_grid(parts: list[Volume]) -> list[Volume]:
    """Merge masks that share a grid into one; otherwise return them unchanged."""
    first = parts[0]
    if all(p.voxels.shape == first.voxels.shape and np.allclose(p.affine, first.affine) for p in parts):
        return [replace(first, voxels=np.logical_or.reduce([part.voxels for part in parts]))]
    return parts


def _in_folder(folder: Path, name: str) -> Path | Series:
    contents = survey(folder)
    # A label map may be listed as a series of images if its SOP class is newer than pydicom's dictionary.
    unknown = [file for series in contents.series if series.modality == "SEG" for file in series.files]
    objects = [path for path in (*(file.path for file in contents.ignored), *unknown) if object_kind(path)]
    candidates = objects or list(contents.series)
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        if name and not objects:
            raise _no_file(name, folder, [_example(candidate) for candidate in candidates])
        names = few([_named(candidate) for candidate in candidates], _MAX_NAMED)
        raise AmbiguousScan(
            Sentence("{n} masks: {names}", n=len(candidates), names=names),
            where=folder,
            expected="one",
            action=_name_one(candidates, objects),
        )
    for file in contents.ignored:
        if file.damaged:
            raise UnreadableScan(file.reason, where=file.path)
    raise ScanNotFound("no mask", where=folder, expected="a mask file, or a DICOM SEG, RTSTRUCT or series")


def _example(candidate: Path | Series) -> str:
    return Path(_named(candidate)).name.partition(".")[0]


def _name_one(candidates: Sequence[Path | Series], objects: Sequence[Path]) -> Sentence:
    """Advice for several masks; a name cannot select among SEG or RTSTRUCT files, where it means a region."""
    if objects:
        return Sentence("Name its file")
    example = _example(candidates[0])
    return Sentence("Name its file, or one of them in the column mask_name, for example {example}", example=example)


def _named(candidate: Path | Series) -> str:
    return candidate.name if isinstance(candidate, Path) else candidate.name or candidate.files[0].name


def _read_labels(source: Path | Series, name: str) -> Volume:
    """Read a mask file or series as bool voxels."""
    volume = read_volume(source, straighten=False)
    voxels, where = volume.voxels, volume.provenance.path
    _require_labels(voxels, where)
    if not name:
        _require_regions(voxels, where)
    present = np.isin(voxels, _label_values(voxels, name, where)) if name else voxels != 0
    return replace(volume, voxels=present, verdict=_without_doubts(volume.verdict))


def _without_doubts(verdict: Verdict) -> Verdict:
    """A verdict with repairs as it is; else only whether the position is known, without doubts about HU."""
    return verdict if verdict.repairs else Verdict(placed=verdict.placed)


def _require_labels(voxels: NDArray, where: Path) -> None:
    expected = Sentence("0 outside the region and whole numbers inside")
    if voxels.min() < 0:
        raise UnusableVoxels(
            Sentence("values from {lowest:g}: a scan rather than a mask", lowest=voxels.min()),
            where=where,
            expected=expected,
        )
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


def _require_regions(voxels: NDArray, where: Path) -> None:
    """Raise UnusableVoxels for a scan, in which nearly every voxel would count as the region."""
    if _changes_everywhere(voxels):
        raise UnusableVoxels(
            "values that change from voxel to voxel: a scan rather than a mask",
            where=where,
            expected=Sentence("0 outside the region and whole numbers inside"),
        )


def _changes_everywhere(voxels: NDArray) -> bool:
    """Whether most pairs of non-zero neighbours in a row differ, as in measured values but not in labels."""
    here, there = voxels[..., 1:], voxels[..., :-1]
    neighbours = (here != 0) & (there != 0)
    pairs = np.count_nonzero(neighbours)
    return bool(pairs >= _FEWEST_PAIRS and np.count_nonzero(neighbours & (here == there)) < pairs / 2)


def _label_values(voxels: NDArray, name: str, where: Path) -> list[int]:
    values = {str(int(value)): int(value) for value in np.unique(voxels) if int(value) != 0}
    wanted = [whole(one) for one in _several(name)]
    if unknown := [one for one in wanted if one not in values] or ([] if wanted else [name]):
        raise ScanNotFound(
            Sentence("no voxel has the label {label!r}", label=unknown[0]),
            where=where,
            expected=Sentence("one of {names}", names=few(list(values), _MAX_NAMED) or "none"),
        )
    return [values[one] for one in wanted]


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
