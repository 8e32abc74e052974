"""Parse the header of a MetaImage file (.mha, .mhd) before ITK opens it: is it valid, and where are its voxels?

ITK's ReadImageInformation accepts what is refused here: it reads a size of -4 as 4294967292, a spacing of "x y z" as
zeros, and does not miss a missing data file. What it does refuse it also prints to the terminal, where a program may
be reading; suppressing that would take a process for every file.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from med_transfer.errors import NotAScan, UnreadableScan
from med_transfer.scans.formats.stored_data import LONGEST_HEADER, StoredData, named_files, numbered

_MAX_AXES, _LONGEST_AXIS = 5, 1 << 20
_FUNCTION = {b"ElementToIntensityFunctionSlope": 1.0, b"ElementToIntensityFunctionOffset": 0.0}  # which ITK ignores
_ORIGIN = (b"Offset", b"Position", b"Origin")
_NUMBERS = (*_ORIGIN, *(b"ElementSpacing", b"TransformMatrix", b"Rotation", b"Orientation"), *_FUNCTION)
_ORDERS = (b"BinaryDataByteOrderMSB", b"ElementByteOrderMSB")  # the first one counts if both are present
# The last field; the voxels, or the names of their files, follow directly.
_DATA = re.compile(rb"^[ \t]*ElementDataFile[ \t]*[=:]([^\r\n]*)\r?\n", re.MULTILINE)
_Fields = dict[bytes, list[bytes]]


def metaimage_data(path: Path) -> StoredData:
    """Location and encoding of the voxels, from the header.

    Raises:
        NotAScan: a field that ITK requires is missing or not a number.
        UnreadableScan: a data file is missing or outside the header's folder, or values need an intensity function.
    """
    with path.open("rb") as file:
        start = file.read(LONGEST_HEADER)
    last = _DATA.search(start)
    lines = (re.split(rb"[=:]", line, maxsplit=1) for line in start[: last.start() if last else 0].splitlines())
    fields: _Fields = {line[0].strip(): line[-1].split() or [b""] for line in lines}
    place = last[1].strip().decode("latin-1") if last else ""
    if not last or not place or b"ElementDataFile" in start[: last.start()] or not _is_complete(fields):
        raise NotAScan("not a readable metaimage file in spite of its name", where=path)
    files, at = (path,), int(_first(fields, b"HeaderSize", "0"))
    if place.upper() != "LOCAL":
        files = named_files(path, _names(path, place, start[last.end() :]))
    elif not at:  # a HeaderSize counts from the start of the file, as in MetaIO
        at = last.end()
    if any(key in fields and float(fields[key][0]) != neutral for key, neutral in _FUNCTION.items()):
        raise UnreadableScan("values coded by an ElementToIntensityFunction, which is not supported", where=path)
    packed = _is_true(fields, b"CompressedData")
    text = fields.get(b"BinaryData", [b"True"])[0][:1].upper() not in (b"T", b"1")
    return StoredData(
        files=files,
        at=at,
        encoding="zlib" if packed else "text" if text else "raw",
        big_endian=_is_true(fields, next(filter(fields.__contains__, _ORDERS), b"")),
        units=(_first(fields, b"DistanceUnits", "?"),),
        has_origin=any(key in fields for key in _ORIGIN),
    )


def _names(path: Path, place: str, behind: bytes) -> list[str]:
    if place.split()[0].upper() == "LIST":
        return [line.decode("latin-1").strip() for line in behind.splitlines() if line.strip()]
    return numbered(path, place) if "%" in place else [place]


def _is_complete(fields: _Fields) -> bool:
    axes = fields.get(b"NDims", [b""])[0]
    size = fields.get(b"DimSize", [])
    return (
        [key for key in fields if key in (b"NDims", b"DimSize")] == [b"NDims", b"DimSize"]
        and axes.isdigit()
        and 1 <= int(axes) <= _MAX_AXES
        and len(size) == int(axes)
        and all(length.isdigit() and 0 < int(length) < _LONGEST_AXIS for length in size)
        and re.fullmatch(rb"-1|\d+", fields.get(b"HeaderSize", [b"0"])[0]) is not None
        and fields.get(b"ElementType", [b""])[0].startswith(b"MET_")
        and all(map(_is_number, (value for key in _NUMBERS for value in fields.get(key, []))))
    )


def _is_number(text: bytes) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _first(fields: _Fields, key: bytes, absent: str) -> str:
    return fields[key][0].decode("latin-1") if key in fields else absent


def _is_true(fields: _Fields, key: bytes) -> bool:
    return fields.get(key, [b""])[0][:1].upper() in (b"T", b"1")
