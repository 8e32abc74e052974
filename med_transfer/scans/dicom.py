"""DICOM: headers become series, each with a verdict; a usable series becomes a Volume."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from med_transfer import geometry
from med_transfer.scans import geometry_verdict
from med_transfer.scans.dicom_header import Slice, read_slice
from med_transfer.scans.dicom_pixels import AIR_HU, same_pixels, stack
from med_transfer.scans.series import Series
from med_transfer.scans.slice_geometry import affine_of, arrange, same_position
from med_transfer.scans.tilt import straighten
from med_transfer.scans.verdict import Verdict, require_usable_series
from med_transfer.scans.volume import Provenance, Volume
from med_transfer.scans.voxel_checks import hounsfield_doubt, require_usable


def group(slices: Iterable[Slice]) -> list[list[Slice]]:
    """Slices by series; localizers that share a series' UID form a group of their own.

    A series spread over several folders stays one, unless the folders hold the same images: those are copies.
    """
    together: dict[tuple, list[Slice]] = defaultdict(list)
    for slice_ in slices:
        folder_if_unnamed = "" if slice_.series_uid else slice_.path.parent
        key = (slice_.patient, slice_.study_uid, slice_.series_uid, folder_if_unnamed, slice_.is_localizer)
        together[key].append(slice_)
    return [part for members in together.values() for part in _split_copies(members)]


def _split_copies(members: list[Slice]) -> list[list[Slice]]:
    folders: dict[Path, list[Slice]] = defaultdict(list)
    for slice_ in members:
        folders[slice_.path.parent].append(slice_)
    images = [{slice_.sop_uid for slice_ in part if slice_.sop_uid} for part in folders.values()]
    copied = sum(len(uids) for uids in images) > len(set().union(*images))
    return list(folders.values()) if copied else [members]


def as_series(slices: Sequence[Slice]) -> Series:
    """One series from the slices of one group, in any order."""
    kept, verdict = _judged(slices)
    first = kept[0]
    return Series(
        path=Path(os.path.commonpath([slice_.path.parent for slice_ in kept])),
        files=tuple(slice_.path for slice_ in kept),
        format="dicom",
        modality=first.modality,
        study_uid=first.study_uid,
        series_uid=first.series_uid,
        n_slices=len(kept),
        verdict=verdict,
        description=first.description,
        patient=first.patient,
    )


def _judged(slices: Sequence[Slice]) -> tuple[tuple[Slice, ...], Verdict]:
    arranged = arrange(slices)
    verdict = geometry_verdict.judge_content(arranged)
    if not verdict.usable:
        return arranged, verdict
    kept, remark = _without_repeats(arranged)
    verdict = geometry_verdict.judge(kept)
    if remark:
        verdict = Verdict("repair" if verdict.usable else "reject", (*verdict.reasons, remark))
    return kept, verdict


def _without_repeats(arranged: tuple[Slice, ...]) -> tuple[tuple[Slice, ...], str]:
    """Drops slices that repeat the one before, pixel for pixel. One that differs stays, and is then rejected."""
    kept, repeated = [arranged[0]], []
    for slice_ in arranged[1:]:
        if not same_position(kept[-1], slice_):
            kept.append(slice_)
        elif same_pixels(kept[-1], slice_):
            repeated.append(len(kept))
        else:
            return arranged, ""
    if not repeated:
        return arranged, ""
    places = ", ".join(str(number) for number in dict.fromkeys(repeated))
    return tuple(kept), f"{len(repeated)} identical copies dropped, at the position of slices {places}"


def read_dicom(series: Series) -> Volume:
    """The volume of a DICOM series: rescaled voxels, affine from the positions, tilt straightened.

    Raises:
        GeometryRejected: by the series' verdict, or because the files have changed since.
        UnreadableScan, MissingCodec, UnusableVoxels: as their names say.
    """
    require_usable_series(series.verdict, series.path)
    slices, verdict = _judged([read_slice(path) for path in series.files])
    require_usable_series(verdict, series.path)
    voxels, remarks = stack(slices)
    affine = affine_of(slices)
    require_usable(voxels, series.path)
    if series.modality == "CT" and (doubt := hounsfield_doubt(voxels)):
        remarks = (*remarks, doubt)
    if geometry.shear_degrees(affine) > geometry_verdict.MAX_SHEAR_DEGREES:
        fill = AIR_HU if series.modality == "CT" else min(float(voxels.min()), 0.0)
        voxels, affine = straighten(voxels, affine, fill)
    return Volume(voxels, affine, _provenance(series, slices), series.verdict.joined(verdict).remarked(remarks))


def _provenance(series: Series, slices: Sequence[Slice]) -> Provenance:
    return Provenance(
        path=series.path,
        format=series.format,
        modality=series.modality,
        study_uid=series.study_uid,
        series_uid=series.series_uid,
        files=series.files,
        acquisition=dict(slices[0].acquisition),
    )


def rejected_for_damage(series: Series, damaged: Sequence[Path]) -> Series:
    """The same series, rejected: a damaged file beside it may be one of its slices, which nobody could tell."""
    names = ", ".join(path.name for path in damaged[:3]) + (" ..." if len(damaged) > 3 else "")
    reason = f"damaged DICOM files beside it may belong to it ({names})"
    return replace(series, verdict=Verdict("reject", (*series.verdict.reasons, reason)))
