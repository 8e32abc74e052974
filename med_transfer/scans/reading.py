"""Reads one scan, of any format, as a Volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from med_transfer.errors import AmbiguousScan, GeometryRejected, ScanNotFound, UnreadableScan
from med_transfer.scans.dicom import as_series, read_dicom
from med_transfer.scans.dicom_header import Slice
from med_transfer.scans.itk_formats import read_itk
from med_transfer.scans.library_noise import silence_readers
from med_transfer.scans.nifti import read_nifti
from med_transfer.scans.series import Ignored, Series
from med_transfer.scans.survey import damaged_slices, look_at, require_exists, survey
from med_transfer.scans.volume import Volume


def read_scan(source: Path | str | Series, series_uid: str = "") -> Volume:
    """The volume of a series, of a folder that holds one usable series, or of one file.

    In a folder (searched with the folders below it) the DICOM series count; files of other formats, such as a mask
    beside the slices, count only where there is no DICOM. ``series_uid`` picks one of several.

    Raises:
        ScanNotFound: nothing there, or nothing in it that is an image.
        NotAScan: a file that is something else than its name says.
        AmbiguousScan: several usable series, and no ``series_uid`` to pick one.
        GeometryRejected: the slices do not form one regular volume; says why.
        UnreadableScan, MissingCodec, UnusableVoxels: as their names say.
    """
    silence_readers()
    if isinstance(source, Series):
        return _read(source)
    path = Path(source)
    require_exists(path)
    return _read(_in_folder(path, series_uid) if path.is_dir() else _in_file(path, series_uid))


def _read(series: Series) -> Volume:
    if series.format == "dicom":
        return read_dicom(series)
    return read_nifti(series.path) if series.format == "nifti" else read_itk(series.path)


def _in_file(path: Path, series_uid: str) -> Series:
    found = look_at(path)
    series = replace(as_series([found]), path=path) if isinstance(found, Slice) else found
    if series_uid and series.series_uid != series_uid:
        raise ScanNotFound(f"the file is not of series {series_uid}", where=path)
    return series


def _in_folder(path: Path, series_uid: str) -> Series:
    found = survey(path)
    candidates = [one for one in found.series if one.format == "dicom"] or list(found.series)
    if series_uid:
        candidates = [one for one in candidates if one.series_uid == series_uid]
    if not candidates:
        raise _nothing(path, series_uid, found.ignored)
    usable = [one for one in candidates if one.verdict.usable]
    if len(usable) == 1:
        return usable[0]
    if usable:
        raise _ambiguous(path, usable)
    _require_undamaged(candidates, found.ignored)
    if len(candidates) > 1:
        reasons = [f"{_name(one)}: {'; '.join(one.verdict.reasons)}" for one in candidates]
        raise GeometryRejected(f"none of {len(candidates)} series is usable ({' | '.join(reasons)})", where=path)
    return candidates[0]


def _nothing(path: Path, series_uid: str, ignored: Sequence[Ignored]) -> ScanNotFound | UnreadableScan:
    damaged = [one for one in ignored if one.damaged]
    if damaged:
        return UnreadableScan(f"no readable image; {damaged[0].path.name}: {damaged[0].reason}", where=path)
    if series_uid:
        return ScanNotFound(f"no series {series_uid}", where=path)
    return ScanNotFound(f"no image among {len(ignored)} files", where=path, expected="DICOM, NIfTI, NRRD or MetaImage")


def _ambiguous(path: Path, usable: Sequence[Series]) -> AmbiguousScan:
    names = ", ".join(f"{_name(one)} ({one.modality or one.format}, {one.n_slices} slices)" for one in usable)
    copies = len({one.series_uid for one in usable}) < len(usable)
    return AmbiguousScan(
        f"{len(usable)} usable series: {names}",
        where=path,
        expected="one series",
        action="Name the folder or file of one of them" if copies else "Name one of them as series_uid",
    )


def _require_undamaged(candidates: Sequence[Series], ignored: Sequence[Ignored]) -> None:
    for series in candidates:
        for one in damaged_slices(series, ignored):
            raise UnreadableScan(one.reason, where=one.path, action="Export the series again, or remove the file")


def _name(series: Series) -> str:
    return series.series_uid or series.path.name
