"""Parse the header of an NRRD file (.nrrd, .nhdr): location and encoding of its voxels, unit of lengths."""

from __future__ import annotations

import re
from pathlib import Path

from med_transfer.errors import NotAScan, UnreadableScan
from med_transfer.scans.formats.stored_data import LONGEST_HEADER, StoredData, named_files, numbered

_ENCODINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}  # others are text
_FARTHEST = 1e9  # in any unit


def nrrd_data(path: Path) -> StoredData:
    """Location and encoding of the voxels, from the header.

    Raises:
        NotAScan: not NRRD in spite of its name, or lengths that are not numbers.
        UnreadableScan: a data file is missing or outside the header's folder, or there are lines to skip, or bytes to
            skip before compressed voxels.
    """
    with path.open("rb") as file:
        start = file.read(LONGEST_HEADER)
    if not start.startswith(b"NRRD000"):
        raise NotAScan("not a readable nrrd file in spite of its name", where=path)
    fields, names, at = _fields(start)
    lengths = [
        *fields.get("spacings", "").split()[:3],
        *_numbers(fields, "spacedirections"),
        *_numbers(fields, "spaceorigin"),
    ]
    if not all(map(_is_length, lengths)):  # ITK would read them as 1 mm
        raise NotAScan("invalid lengths in a nrrd file", where=path)
    encoding = _ENCODINGS.get(fields.get("encoding", "").lower(), "text")
    skipped = fields.get("byteskip", "0")
    if fields.get("lineskip", "0") != "0" or (skipped not in ("0", "-1") and encoding != "raw"):
        raise UnreadableScan("lines or bytes to skip before packed voxels are not supported", where=path)
    if place := fields.get("datafile", ""):
        listed = names if place.startswith("LIST") else numbered(path, place) if "%" in place else [place]
        files, at = named_files(path, listed), 0
    else:
        files = (path,)
    return StoredData(
        files=files,
        at=-1 if skipped == "-1" else at + _integer(skipped, path),
        encoding=encoding,
        big_endian=fields.get("endian", "").lower() == "big",
        units=tuple(re.findall(r'"([^"]*)"', fields.get("spaceunits") or fields.get("units", "")))[:3],
        has_origin="spaceorigin" in fields,
    )


def _fields(start: bytes) -> tuple[dict[str, str], list[str], int]:
    """Fields, lines after ``data file: LIST``, and the number of bytes up to the empty line that ends the header."""
    fields: dict[str, str] = {}
    listed: list[str] = []
    at = 0
    for line in start.splitlines(keepends=True):
        at += len(line)
        text = line.decode("latin-1").strip()
        if not text:
            break
        if fields.get("datafile", "").startswith("LIST"):
            listed.append(text)
            continue
        key, colon, value = text.partition(":")
        if colon and not value.startswith("=") and not text.startswith("#"):
            fields[key.lower().replace(" ", "")] = value.strip()
    return fields, listed, at


def _integer(text: str, path: Path) -> int:
    if not text.isdecimal():
        raise NotAScan("not a readable nrrd file in spite of its name", where=path)
    return int(text)


def _numbers(fields: dict[str, str], key: str) -> list[str]:
    """Numbers of vectors, as text; ``none`` stands for a non-spatial axis and is left out."""
    return [text for text in re.split(r"[\s(),]+", fields.get(key, "")) if text not in ("", "none")]


def _is_length(text: str) -> bool:
    try:
        return abs(float(text)) < _FARTHEST
    except ValueError:
        return False
