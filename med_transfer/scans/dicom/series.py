"""Build series, each with a verdict, from DICOM headers, and read usable series as volumes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from med_transfer.errors import ScanAborted, UnreadableScan
from med_transfer.errors.sentence import Sentence
from med_transfer.scans.dicom.content_verdict import content_verdict, mixture_verdict
from med_transfer.scans.dicom.geometry_verdict import MIN_SLICES, one_frame_of_reference_each, slices_verdict
from med_transfer.scans.dicom.header import Slice
from med_transfer.scans.dicom.pixels import AIR_HU, same_pixels, stack
from med_transfer.scans.dicom.regular_grid import on_regular_grid
from med_transfer.scans.dicom.series_splitting import group_by_series, split_phases, split_planes
from med_transfer.scans.dicom.slice_geometry import affine_of, arrange, same_position
from med_transfer.scans.geometry import Grid
from med_transfer.scans.isolation import isolated
from med_transfer.scans.series import Series
from med_transfer.scans.verdict import Repair, Verdict, require_usable_series
from med_transfer.scans.volume import Provenance, Volume
from med_transfer.scans.voxel_checks import hounsfield_doubt, require_finite

_STRAY = Sentence("an image that was set apart continues this volume: a slice may be missing")


def all_series(
    slices: Iterable[Slice], max_gap_mm: float = 0.0, listed: Mapping[str, frozenset[str]] = MappingProxyType({})
) -> list[Series]:
    """Group the images of a folder tree, in any order, into series.

    Args:
        slices: headers of all images.
        max_gap_mm: unevenly spaced slices are usable (by interpolation) if no gap is wider.
        listed: SOPInstanceUIDs that DICOMDIRs of the tree list, by SeriesInstanceUID.
    """
    groups = group_by_series(slices, listed)
    volumes = [volume.among(verdict) for group, verdict in groups for volume in split_series(group, max_gap_mm)]
    volumes = _each_named(volumes)
    strays = [volume for volume in volumes if volume.n_slices < MIN_SLICES and volume.slices[0].position_mm]
    return [_beside_strays(volume, strays) if volume.verdict.usable else volume for volume in volumes]


def _each_named(volumes: Sequence[Series]) -> list[Series]:
    """Give usable volumes of several studies or patients that share UID and folder distinct names."""
    usable = [volume for volume in volumes if volume.verdict.usable]
    alike = Counter((volume.path, volume.name) for volume in usable)
    of_study = Counter((volume.path, volume.name, volume.study_uid) for volume in usable)

    def named(volume: Series) -> Series:
        place = volume.path, volume.name
        if not volume.verdict.usable or alike[place] == 1:
            return volume
        own_study = of_study[*place, volume.study_uid] == 1
        whose = f"StudyInstanceUID {volume.study_uid}" if own_study else f"patient {volume.slices[0].patient_mark}"
        return replace(volume, part=f"{volume.part} {whose}".strip())

    return [named(volume) for volume in volumes]


def _beside_strays(volume: Series, strays: Sequence[Series]) -> Series:
    """Add a remark if images of another series, too few for a volume, would extend this one regularly.

    Their orientation is ignored: a damaged one separates a slice from its series as if it were a scout. Real scouts do
    not match, because their positions do not continue the series.
    """
    first = volume.slices[0]
    for stray in strays:
        alike = [replace(s, orientation=first.orientation) for s in stray.slices if _match_key(s) == _match_key(first)]
        if alike and slices_verdict(arrange((*volume.slices, *alike))).usable:
            return volume.among(Verdict(remarks=(_STRAY,)))
    return volume


def _match_key(slice_: Slice) -> tuple:
    return slice_.study_uid, slice_.modality, slice_.is_localizer, slice_.rows, slice_.columns, slice_.spacing_mm


def split_series(slices: Sequence[Slice], max_gap_mm: float) -> list[Series]:
    """Split the images of one SeriesInstanceUID into volumes: usually one, otherwise told apart by ``part``."""
    by_plane = split_planes(slices)
    if len(by_plane) > 1:
        volumes = [volume for plane, part in by_plane for volume in _phases(part, max_gap_mm, plane)]
        if any(volume.verdict.usable for volume in volumes):  # else stray images may be mislabelled slices of it
            return volumes
    return _phases(slices, max_gap_mm)


def _phases(slices: Sequence[Slice], max_gap_mm: float, plane: str = "") -> list[Series]:
    whole = as_series(slices, max_gap_mm, plane)
    if whole.verdict.usable:
        return [whole]
    phases = split_phases(slices, lambda part: _with_verdict(part, max_gap_mm)[1].usable)
    if len(phases) == 1:
        return [whole]
    volumes = [as_series(part, max_gap_mm, " ".join(filter(None, (plane, name)))) for name, part in phases]
    most = max(volume.n_slices for volume in volumes)
    shorter = Verdict(
        remarks=(Sentence("another volume of the series has {most} slices: slices may be missing", most=most),)
    )
    return [volume if volume.n_slices == most else volume.among(shorter) for volume in volumes]


def as_series(slices: Sequence[Slice], max_gap_mm: float, part: str) -> Series:
    """A series made of the images of one volume, which may come in any order."""
    ordered, verdict = _with_verdict(slices, max_gap_mm)
    first = ordered[0]
    return Series(
        path=Path(os.path.commonpath([slice_.path.parent for slice_ in ordered])),
        files=tuple(dict.fromkeys(slice_.path for slice_ in ordered)),
        format="dicom",
        modality=first.modality,
        study_uid=first.study_uid,
        series_uid=first.series_uid,
        n_slices=len(ordered),
        verdict=verdict,
        part=part,
        affine=affine_of(ordered) if verdict.usable else None,
        acquisition=dict(first.acquisition),
        slices=ordered,
    )


def _with_verdict(slices: Sequence[Slice], max_gap_mm: float) -> tuple[tuple[Slice, ...], Verdict]:
    """Sort the slices, drop repeats, and judge the result."""
    arranged = arrange(slices)
    verdict = content_verdict(arranged)
    if not verdict.usable:
        return arranged, verdict
    without_repeats, dropped = _without_repeats(arranged)
    verdict = slices_verdict(without_repeats, max_gap_mm).joined(Verdict(repairs=dropped))
    return without_repeats, verdict.joined(mixture_verdict(without_repeats)) if verdict.usable else verdict


def _without_repeats(arranged: tuple[Slice, ...]) -> tuple[tuple[Slice, ...], tuple[Repair, ...]]:
    """Drop slices with the same position and pixels as the one before; if only the position is equal, drop none."""
    different, repeated = [arranged[0]], []
    for slice_ in arranged[1:]:
        if not same_position(different[-1], slice_):
            different.append(slice_)
        elif _same_pixels(different[-1], slice_):
            repeated.append(len(different))
        else:
            return arranged, ()
    if not repeated:
        return arranged, ()
    places = ", ".join(str(number) for number in dict.fromkeys(repeated))
    reason = Sentence(
        "{n} identical copies dropped, at the position of slices {places}", n=len(repeated), places=places
    )
    return tuple(different), (Repair("repeated_slices", reason),)


def _same_pixels(first: Slice, second: Slice) -> bool:
    """The only place where a survey reads pixels and not just headers."""
    try:
        return isolated(same_pixels, first, second, where=second.path)
    except ScanAborted:
        return False


def read_dicom(series: Series, max_gap_mm: float, *, straighten: bool) -> Volume:
    """Read a DICOM series: rescaled voxels (HU for CT), affine from the positions, tilt and uneven gaps repaired.

    Args:
        series: the series.
        max_gap_mm: uneven gaps are repaired if none is wider.
        straighten: False to leave slices where they are, on sheared axes if the gantry was tilted; for labels, which
            cannot be interpolated. Only without uneven gaps.

    Raises:
        GeometryRejected: the verdict rejects the series.
        UnreadableScan: a file is truncated or corrupt, or has changed since the series was found.
        MissingCodec: no installed package decodes the compressed pixels.
        UnusableVoxels: voxels are NaN or infinite.
    """
    for slice_ in series.slices:
        if slice_.damage:
            raise UnreadableScan(slice_.damage, where=slice_.path, action="Export the series again, or remove the file")
    slices, verdict = _with_verdict(series.slices, max_gap_mm)
    verdict = series.context.joined(verdict)
    if series.verdict.usable or max_gap_mm == 0.0:
        verdict = series.verdict.joined(verdict)
    require_usable_series(verdict, series.path)
    voxels, remarks = stack(slices)
    require_finite(voxels, series.path)
    if series.modality == "CT" and (doubt := hounsfield_doubt(voxels)):
        remarks = (*remarks, doubt)
    affine, provenance = affine_of(slices), _provenance(series, slices)
    if not straighten:
        verdict = replace(verdict, repairs=tuple(r for r in verdict.repairs if r.kind != "gantry_tilt"))
    if any(repair.kind != "repeated_slices" for repair in verdict.repairs):  # dropping repeats needs no resampling
        positions = np.array([slice_.position_mm for slice_ in slices])
        fill = AIR_HU if series.modality == "CT" else min(float(voxels.min()), 0.0)
        provenance = replace(provenance, stored=Grid(affine, voxels.shape))
        voxels, affine = on_regular_grid(voxels, affine, positions, fill)
    return Volume(voxels, affine, provenance, verdict.remarked(remarks))


def _provenance(series: Series, slices: Sequence[Slice]) -> Provenance:
    return Provenance(
        path=series.path,
        format=series.format,
        modality=series.modality,
        study_uid=series.study_uid,
        series_uid=series.series_uid,
        frame_of_reference="" if one_frame_of_reference_each(slices) else slices[0].frame_of_reference,
        files=series.files,
        acquisition=dict(slices[0].acquisition),
    )
