"""Read one scan of any format as a Volume."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, reduce
from pathlib import Path

from med_transfer.errors import AmbiguousScan, GeometryRejected, ScanNotFound, UnreadableScan, UsageError, given_path
from med_transfer.errors.given_numbers import number_from
from med_transfer.errors.sentence import Sentence, few, files, joined
from med_transfer.scans.dicom.header import Slice
from med_transfer.scans.dicom.sentences import counted
from med_transfer.scans.dicom.series import read_dicom, split_series
from med_transfer.scans.formats.itk import read_itk
from med_transfer.scans.formats.nifti import read_nifti
from med_transfer.scans.library_noise import silence_readers
from med_transfer.scans.search.damaged_files import damaged_slices
from med_transfer.scans.search.files import require_exists
from med_transfer.scans.search.links import follow_links_advice
from med_transfer.scans.search.survey import inspect_file, survey
from med_transfer.scans.series import Ignored, Series, Survey
from med_transfer.scans.stamps import NamedStamp, stamps
from med_transfer.scans.volume import Volume
from med_transfer.scans.voxel_checks import require_usable

_MAX_NAMED = 6  # series listed in one message


def read_scan(source: Path | str | Series, series_uid: str = "", *, max_gap_mm: float = 0.0) -> Volume:
    """Read the volume of a series, of a folder or archive with one usable series, or of a single file.

    Folders are searched recursively. If there are DICOM series, files of other formats are ignored, since they may be
    masks stored beside the slices.

    Args:
        source: path, or a series from :func:`survey`.
        series_uid: which of several series to read: a SeriesInstanceUID, or the name that a survey gives to one of
            several volumes under one UID (``1.2.3#EchoTime 4.6``).
        max_gap_mm: unevenly spaced slices are interpolated if no gap is wider, and rejected otherwise.

    Returns:
        Voxels [depth, height, width], in Hounsfield units for CT.

    Raises:
        ScanNotFound: the path does not exist or holds no image.
        NotAScan: the file's content does not match its name.
        AmbiguousScan: several usable series match.
        GeometryRejected: the slices do not form one regular volume; says why.
        UnreadableScan: a file is truncated or corrupt.
        ScanAborted: a file cannot be reached now, for example because a drive is away.
        MissingCodec: no installed package decodes the compressed pixels.
        UnusableVoxels: the voxels are NaN, infinite or constant.
        UsageError: the source is neither a path nor a Series, for example an array, or the gap is no number of mm.
    """
    volume = read_volume(source, series_uid, max_gap_mm=max_gap_mm)
    require_usable(volume.voxels, volume.provenance.path)
    return volume


def read_volume(
    source: Path | str | Series, series_uid: str = "", *, max_gap_mm: float = 0.0, straighten: bool = True
) -> Volume:
    """Like :func:`read_scan`, but accept voxels that all have the same value, as those of a mask may.

    Without ``straighten``, slices of a tilted gantry stay as stored, on sheared axes, as labels cannot be interpolated;
    so do those of a NIfTI file, which are refused otherwise.
    """
    if not isinstance(source, os.PathLike | str | Series):
        raise UsageError(
            f"found an object of type {type(source).__name__}",
            where="scan",
            expected="a path, or a Series that find_series has found",
            action="Voxels alone have no spacing or position: save an array as NIfTI, with its affine",
        )
    number_from(max_gap_mm, "max_gap_mm", 0)
    silence_readers()
    series = source if isinstance(source, Series) else _found(source, series_uid, max_gap_mm)
    if series.format == "dicom":
        return read_dicom(series, max_gap_mm, straighten=straighten)
    if series.format == "nifti":
        return read_nifti(series.files[0], straight=straighten)
    return read_itk(series.files[0])


def _found(source: Path | str, series_uid: str, max_gap_mm: float) -> Series:
    path = given_path(source, "scan", "a path")
    require_exists(path)
    content = None if path.is_dir() else inspect_file(path)
    if content is None:
        return _in_folder(path, series_uid, max_gap_mm)
    return _in_file(path, content, series_uid, max_gap_mm)


def _in_file(path: Path, content: tuple[Slice, ...] | Series, series_uid: str, max_gap_mm: float) -> Series:
    """The requested volume of one file; an enhanced DICOM object may hold several."""
    candidates = [content] if isinstance(content, Series) else split_series(content, max_gap_mm)
    if series_uid and not any(series_uid in (series.name, series.series_uid) for series in candidates):
        raise ScanNotFound(Sentence("the file is not of series {series_uid}", series_uid=series_uid), where=path)
    return replace(_one_of(path, _named(candidates, series_uid), series_uid), path=path)


@lru_cache(maxsize=1)  # a survey of a large folder takes much memory
def _surveyed(path: Path, max_gap_mm: float, _files: tuple[NamedStamp, ...]) -> Survey:
    """Survey a folder or archive once for all table rows that name its series, until one of its ``_files`` changes."""
    return survey(path, max_gap_mm=max_gap_mm)


def _in_folder(path: Path, series_uid: str, max_gap_mm: float) -> Series:
    contents = _surveyed(path, max_gap_mm, tuple(stamps([path])))
    dicom = [series for series in contents.series if series.format == "dicom"]
    candidates = _named(contents.series if series_uid else dicom or contents.series, series_uid)
    if not candidates:
        raise _nothing(path, series_uid, contents.ignored)
    return _one_of(path, candidates, series_uid, contents.ignored)


def _named(candidates: Sequence[Series], series_uid: str) -> list[Series]:
    """Candidates with this name, or else this UID; all if none is given."""
    named = [series for series in candidates if series_uid in ("", series.name)]
    return named or [series for series in candidates if series.series_uid == series_uid]


def _one_of(path: Path, candidates: Sequence[Series], series_uid: str, ignored: Sequence[Ignored] = ()) -> Series:
    """The only usable candidate, or the only candidate at all, whose verdict then says why it is unusable."""
    usable = [series for series in candidates if series.verdict.usable]
    if len(usable) == 1:
        return usable[0]
    if len(itself := [series for series in usable if (series.path, series.name) == (path, series_uid)]) == 1:
        return itself[0]  # rather than a copy in a subfolder
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
    """Why each of the first few candidates is unusable, and the number of the others."""
    first = candidates[:_MAX_NAMED]
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
        Sentence("no image among {files}", files=files(len(ignored))),
        where=path,
        expected="DICOM, NIfTI, NRRD or MetaImage",
        action=follow_links_advice(ignored),
    )


def _ambiguous(path: Path, usable: Sequence[Series]) -> AmbiguousScan:
    names = [
        Sentence(
            "{name} ({kind}, {slices})", name=_name(one), kind=one.modality or one.format, slices=counted(one.n_slices)
        )
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
