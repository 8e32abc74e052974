"""Looks through a folder tree, by content, and says which series it holds and what each is worth."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from med_transfer.errors import NotAScan, ScanError, ScanNotFound, UnreadableScan
from med_transfer.scans.dicom import as_series, group, rejected_for_damage
from med_transfer.scans.dicom_header import Slice, looks_like_dicom, read_slice
from med_transfer.scans.itk_formats import FORMATS, itk_series
from med_transfer.scans.library_noise import silence_readers
from med_transfer.scans.nifti import SUFFIXES, nifti_series
from med_transfer.scans.series import Ignored, Series, Survey


def survey(folder: Path | str) -> Survey:
    """Every series in a folder and below it (or of one file), and every file that is none. Reads headers only.

    One bad file never stops the search; it is listed as ignored, and a DICOM series beside it is rejected, because
    the file may be one of its slices.

    Raises:
        ScanNotFound: the folder does not exist.
    """
    folder = Path(folder)
    require_exists(folder)
    silence_readers()
    slices: list[Slice] = []
    series: list[Series] = []
    ignored: list[Ignored] = []
    for path in _files(folder, ignored):
        try:
            found = look_at(path)
        except ScanError as error:
            ignored.append(Ignored(path, error.found, damaged=not isinstance(error, NotAScan)))
            continue
        slices.append(found) if isinstance(found, Slice) else series.append(found)
    series += [_beside_damage(as_series(members), ignored) for members in group(slices)]
    series.sort(key=lambda one: (str(one.path), one.series_uid, one.files))
    return Survey(tuple(series), tuple(sorted(ignored, key=lambda one: one.path)))


def find_series(folder: Path | str) -> list[Series]:
    """Every series in a folder and below it, usable or not. Raises ScanNotFound when the folder does not exist."""
    return list(survey(folder).series)


def look_at(path: Path) -> Slice | Series:
    """What one file is: a DICOM image, or a series in a file of its own.

    Raises:
        NotAScan: neither.
        UnreadableScan: one of them, but damaged, or not permitted.
    """
    name = path.name.lower()
    if name.endswith(SUFFIXES):
        return nifti_series(path)
    if path.suffix.lower() in FORMATS:
        return itk_series(path)
    try:
        is_dicom = looks_like_dicom(path)
    except OSError as error:
        raise UnreadableScan(f"cannot be opened ({type(error).__name__})", where=path) from error
    if not is_dicom:
        raise NotAScan("not an image file", where=path, expected="DICOM, NIfTI, NRRD or MetaImage")
    return read_slice(path)


def require_exists(path: Path) -> None:
    """Raises ScanNotFound, or UnreadableScan where permissions hide the answer."""
    try:
        exists = path.exists()
    except PermissionError as error:
        raise UnreadableScan("no permission to look into the folder", where=path) from error
    if not exists:
        raise ScanNotFound("no such file or folder", where=path)


def _files(folder: Path, ignored: list[Ignored]) -> Iterator[Path]:
    """Files below a folder, in order of name, links followed once; hidden ones left out."""
    if folder.is_file():
        yield folder
        return

    def unreadable(error: OSError) -> None:
        ignored.append(Ignored(Path(error.filename), f"folder cannot be opened ({type(error).__name__})", damaged=True))

    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(parent, name)


def damaged_slices(series: Series, ignored: Sequence[Ignored]) -> list[Ignored]:
    """Damaged files beside a DICOM series that may be slices of it; a file of another format cannot be one."""
    folders = {path.parent for path in series.files}
    other_formats = (*SUFFIXES, *FORMATS)
    beside = [one for one in ignored if one.damaged and one.path.parent in folders]
    return [one for one in beside if not one.path.name.lower().endswith(other_formats)]


def _beside_damage(series: Series, ignored: Sequence[Ignored]) -> Series:
    damaged = [one.path for one in damaged_slices(series, ignored)]
    return rejected_for_damage(series, damaged) if damaged else series
