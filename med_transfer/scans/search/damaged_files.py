"""Unreadable files beside a DICOM series, which may be slices that it has lost.

A slice lost inside a series leaves a gap. One lost at an end leaves a volume that looks whole; the unreadable file is
then the only evidence.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from med_transfer.errors.sentence import Sentence, few
from med_transfer.scans.dicom.directory import NAME as DICOMDIR
from med_transfer.scans.formats.itk import FORMATS
from med_transfer.scans.formats.nifti import SUFFIXES
from med_transfer.scans.search.links import BROKEN
from med_transfer.scans.series import NO_IMAGE, TEXT_NAMED_AS_DICOM, Ignored, Series
from med_transfer.scans.verdict import Verdict

_DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")
_PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")  # of compressed single files; archives are unpacked
_NUMBER = re.compile(r"[0-9a-f]*[0-9][0-9a-f]*", re.IGNORECASE)
_MAX_NAMED = 3


def named_as_dicom(path: Path) -> bool:
    """Whether a file has a suffix of DICOM files, compressed or not."""
    return _unpacked(path).suffix.lower() in _DICOM_SUFFIXES


def _unpacked(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in _PACKED_SUFFIXES else path


def named_as_volume(path: Path) -> bool:
    """Whether a file has a suffix of single-file volumes (NIfTI, NRRD, MetaImage)."""
    return path.name.lower().endswith((*SUFFIXES, *FORMATS))


def as_damaged(ignored: Iterable[Ignored], series: Iterable[Series]) -> list[Ignored]:
    """Mark files of unknown format as damaged if they are named like the slices of a series beside them."""
    names: dict[Path, set[str]] = defaultdict(set)
    for path in (path for found in series if found.format == "dicom" for path in found.files):
        names[path.parent].add(_shape(path.name))

    def is_damaged(file: Ignored) -> bool:
        return file.damaged or (
            file.reason in (NO_IMAGE, BROKEN) and _shape(_unpacked(file.path).name) in names[file.path.parent]
        )

    return [replace(file, damaged=is_damaged(file)) for file in ignored]


def _shape(name: str) -> str:
    return _NUMBER.sub("#", name)


def damaged_slices(series: Series, ignored: Iterable[Ignored]) -> list[Ignored]:
    """Damaged files in the folders of a DICOM series that may be slices of it, unlike files of other formats."""
    damaged = [file for file in ignored if file.damaged and _may_be_slice(file.path)]
    folders = {path.parent for path in series.files} if damaged else set()
    return [file for file in damaged if file.path.parent in folders]


def _may_be_slice(path: Path) -> bool:
    return path.name.upper() != DICOMDIR and not named_as_volume(path)


def beside_damage(series: Sequence[Series], ignored: Sequence[Ignored]) -> list[Series]:
    """Add the damaged files beside each series to its verdict.

    A damaged file whose neighbours by name belong to one series is taken for a slice of it, and the series is
    rejected; so is the only series of a folder. Other series of the folder get a remark, as they may have lost the
    file. Broken links, which may have led to anything, and text files not named like the slices (notes, say) are
    remarks only.
    """
    beside: dict[Path, list[Ignored]] = defaultdict(list)
    for file in ignored:
        if file.damaged:
            beside[file.path.parent].append(file)
    of_folder: dict[Path, list[tuple[list, str]]] = defaultdict(list)
    for found in series if beside else ():
        for path in (path for path in found.files if path.parent in beside):
            of_folder[path.parent].append((_natural(path.name), found.series_uid))
    for files in of_folder.values():
        files.sort()
    return [_with_damage(found, damaged_slices(found, _of_folders(found, beside)), of_folder) for found in series]


def _of_folders(series: Series, beside: Mapping[Path, list[Ignored]]) -> list[Ignored]:
    """Damaged files in the folders of a series, in a stable order."""
    folders = dict.fromkeys(path.parent for path in series.files) if beside else ()
    return [file for folder in folders for file in beside.get(folder, ())]


def _with_damage(series: Series, damaged: Sequence[Ignored], of_folder: dict[Path, list[tuple[list, str]]]) -> Series:
    if not damaged:
        return series
    shapes = {_shape(path.name) for path in series.files}
    notes = [f for f in damaged if f.reason == TEXT_NAMED_AS_DICOM and _shape(f.path.name) not in shapes]
    lost = [file for file in damaged if file.reason != BROKEN and file not in notes]
    own = [file for file in lost if _owners(file.path, of_folder[file.path.parent]) == {series.series_uid}]
    if own:
        return series.among(
            Verdict(rejections=(Sentence("damaged files beside it may belong to it ({names})", names=_named(own)),))
        )
    links = [file for file in damaged if file.reason == BROKEN]
    remarks = []
    if lost:
        remarks.append(
            Sentence(
                "damaged files lie beside it and beside other series ({names}): a slice may be missing",
                names=_named(lost),
            )
        )
    if links:
        remarks.append(Sentence("broken links lie beside it ({names}): a slice may be missing", names=_named(links)))
    if notes:
        remarks.append(Sentence("text files lie beside it that are named as DICOM ({names})", names=_named(notes)))
    return series.among(Verdict(remarks=tuple(remarks)))


def _owners(path: Path, files: list[tuple[list, str]]) -> set[str]:
    """The series of the files before and after this one by name."""
    place = bisect(files, (_natural(path.name), ""))
    return {series_uid for _, series_uid in files[max(place - 1, 0) : place + 1]}


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that compares numbers in a name as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name.lower())]


def _named(files: Sequence[Ignored]) -> str:
    return few([file.path.name for file in files], _MAX_NAMED)
