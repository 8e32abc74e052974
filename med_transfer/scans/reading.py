"""Reads one scan, of any format, as a Volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, reduce
from pathlib import Path

from med_transfer.errors import AmbiguousScan, GeometryRejected, ScanNotFound, UnreadableScan
from med_transfer.errors.sentence import Sentence, few, joined
from med_transfer.scans.dicom.header import Slice
from med_transfer.scans.dicom.series import read_dicom, split_series
from med_transfer.scans.formats.itk import read_itk
from med_transfer.scans.formats.nifti import read_nifti
from med_transfer.scans.library_noise import silence_readers
from med_transfer.scans.search.damaged_files import damaged_slices
from med_transfer.scans.search.files import require_exists
from med_transfer.scans.search.links import how_to_follow
from med_transfer.scans.search.survey import inspect_file, survey
from med_transfer.scans.series import Ignored, Series, Survey
from med_transfer.scans.stamps import NamedStamp, stamps
from med_transfer.scans.volume import Volume
from med_transfer.scans.voxel_checks import require_usable

_MOST_NAMED = 6  # series that one message tells of


def read_scan(source: Path | str | Series, series_uid: str = "", *, max_gap_mm: float = 0.0) -> Volume:
    """The volume of a series, of a folder or archive that holds one usable series, or of one file.

    In a folder (searched with the folders below it) the DICOM series count; files of other formats, such as a mask
    beside the slices, count only where there is no DICOM. ``series_uid`` picks one of several: the UID, or the name
    that a survey gives to one of several volumes under one UID (``1.2.3#EchoTime 4.6``). Uneven slices are rejected,
    unless no gap is wider than ``max_gap_mm``: then they are interpolated.

    Raises:
        ScanNotFound: nothing there, or nothing in it that is an image.
        NotAScan: a file that is something else than its name says.
        AmbiguousScan: several usable series, and no ``series_uid`` to pick one.
        GeometryRejected: the slices do not form one regular volume; says why.
        UnreadableScan, MissingCodec, UnusableVoxels: as their names say.
    """
    volume = read_volume(source, series_uid, max_gap_mm=max_gap_mm)
    require_usable(volume.voxels, volume.provenance.path)
    return volume


def read_volume(source: Path | str | Series, series_uid: str = "", *, max_gap_mm: float = 0.0) -> Volume:
    """As :func:`read_scan`, but all voxels may have one value: no scan has that, a mask may."""
    silence_readers()
    if isinstance(source, Series):
        return _read(source, max_gap_mm)
    path = Path(source)
    require_exists(path)
    content = None if path.is_dir() else inspect_file(path)
    if content is None:
        return _read(_in_folder(path, series_uid, max_gap_mm), max_gap_mm)
    return _read(_in_file(path, content, series_uid, max_gap_mm), max_gap_mm)


def _read(series: Series, max_gap_mm: float) -> Volume:
    if series.format == "dicom":
        return read_dicom(series, max_gap_mm)
    return read_nifti(series.files[0]) if series.format == "nifti" else read_itk(series.files[0])


def _in_file(path: Path, content: tuple[Slice, ...] | Series, series_uid: str, max_gap_mm: float) -> Series:
    """The volume in one file that is meant; an enhanced object may hold several phases."""
    candidates = [content] if isinstance(content, Series) else split_series(content, max_gap_mm)
    if series_uid and not any(series_uid in (series.name, series.series_uid) for series in candidates):
        raise ScanNotFound(Sentence("the file is not of series {series_uid}", series_uid=series_uid), where=path)
    return replace(_one_of(path, _named(candidates, series_uid), series_uid), path=path)


@lru_cache(maxsize=1)  # a survey of a large folder is large itself
def _surveyed(path: Path, max_gap_mm: float, _files: tuple[NamedStamp, ...]) -> Survey:
    """Once for all rows that name series of one folder or archive, as long as its ``_files`` stay as they are."""
    return survey(path, max_gap_mm=max_gap_mm)


def _in_folder(path: Path, series_uid: str, max_gap_mm: float) -> Series:
    contents = _surveyed(path, max_gap_mm, tuple(stamps([path])))
    candidates = [series for series in contents.series if series.format == "dicom"] or list(contents.series)
    candidates = _named(candidates, series_uid)
    if not candidates:
        raise _nothing(path, series_uid, contents.ignored)
    return _one_of(path, candidates, series_uid, contents.ignored)


def _named(candidates: Sequence[Series], series_uid: str) -> list[Series]:
    """Those of this name, else of this UID; all where none is given."""
    named = [series for series in candidates if series_uid in ("", series.name)]
    return named or [series for series in candidates if series.series_uid == series_uid]


def _one_of(path: Path, candidates: Sequence[Series], series_uid: str, ignored: Sequence[Ignored] = ()) -> Series:
    """The one that can be used, or the only one there is, whose verdict then says why it cannot."""
    usable = [series for series in candidates if series.verdict.usable]
    if len(usable) == 1:
        return usable[0]
    if len(itself := [series for series in usable if (series.path, series.name) == (path, series_uid)]) == 1:
        return itself[0]  # and not a copy in a folder below it
    if usable:
        raise _ambiguous(path, usable)
    _require_undamaged(candidates, ignored)
    if len(candidates) > 1:
        raise GeometryRejected(
            Sentence("none of {n} series is usable ({names})", n=len(candidates), names=_refused(candidates)),
            where=path,
        )
    return candidates[0]


def _refused(candidates: Sequence[Series]) -> Sentence:
    """Why each of the first few cannot be used, and how many more there are."""
    first = candidates[:_MOST_NAMED]
    reasons = [Sentence("{name}: {reasons}", name=_name(one), reasons=joined(*one.verdict.reasons)) for one in first]
    names = reduce(_or, reasons)
    rest = len(candidates) - len(first)
    return Sentence("{items} and {n} more", items=names, n=rest) if rest else names


def _or(first: str, second: str) -> Sentence:
    return Sentence("{first} | {second}", first=first, second=second)


def _nothing(path: Path, series_uid: str, ignored: Sequence[Ignored]) -> ScanNotFound | UnreadableScan:
    damaged = [file for file in ignored if file.damaged]
    if damaged:
        return UnreadableScan(
            Sentence("no readable image; {name}: {reason}", name=damaged[0].path.name, reason=damaged[0].reason),
            where=path,
        )
    if series_uid:
        return ScanNotFound(Sentence("no series {series_uid}", series_uid=series_uid), where=path)
    return ScanNotFound(
        Sentence("no image among {n} files", n=len(ignored)),
        where=path,
        expected="DICOM, NIfTI, NRRD or MetaImage",
        action=how_to_follow(ignored),
    )


def _ambiguous(path: Path, usable: Sequence[Series]) -> AmbiguousScan:
    names = [
        Sentence("{name} ({kind}, {n} slices)", name=_name(one), kind=one.modality or one.format, n=one.n_slices)
        for one in usable
    ]
    copies = len({series.name for series in usable}) < len(usable)
    return AmbiguousScan(
        Sentence("{n} usable series: {names}", n=len(usable), names=few(names)),
        where=path,
        expected="one series",
        action="Name the folder or file of one of them" if copies else "Name one of them as series_uid",
    )


def _require_undamaged(candidates: Sequence[Series], ignored: Sequence[Ignored]) -> None:
    for series in candidates:
        for file in damaged_slices(series, ignored):
            raise UnreadableScan(file.reason, where=file.path, action="Export the series again, or remove the file")


def _name(series: Series) -> str:
    return series.name or series.files[0].name
