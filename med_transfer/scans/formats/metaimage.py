"""Whether a MetaImage is whole, asked before ITK opens it.

ITK's own ReadImageInformation does not refuse what is refused here: it takes a size of -4 for 4294967292, a spacing of
"x y z" for zeros, and a data file that is missing or too short for a good one; what it does refuse it also complains
about on the terminal, where a program may be reading. To keep that away takes a process of its own for every file.
"""

from __future__ import annotations

import math
from pathlib import Path

from med_transfer.errors import NotAScan, UnreadableScan

_MOST_AXES, _LONGEST_AXIS = 5, 1 << 20
_LONGEST_HEADER = 1 << 16
_LAST_FIELD = b"ElementDataFile"  # the data, or the name of the file that has them, comes right after


def require_header(path: Path) -> None:
    """Raises NotAScan where a field that ITK cannot do without is missing or no number."""
    with path.open("rb") as file:
        header, last, rest = file.read(_LONGEST_HEADER).partition(_LAST_FIELD)
    lines = (line.partition(b"=") for line in header.splitlines())
    fields = {key.strip(): value.split() or [b""] for key, _, value in lines}
    axes = fields.get(b"NDims", [b""])[0]
    size = fields.get(b"DimSize", [])
    numbers = [b"Offset", b"Position", b"Origin", b"ElementSpacing", b"TransformMatrix", b"Rotation", b"Orientation"]
    wrong = (
        not last
        or not rest.partition(b"\n")[0].strip(b" =\r\t")
        or [key for key in fields if key in (b"NDims", b"DimSize")] != [b"NDims", b"DimSize"]
        or not axes.isdigit()
        or not 1 <= int(axes) <= _MOST_AXES
        or len(size) != int(axes)
        or not all(length.isdigit() and 0 < int(length) < _LONGEST_AXIS for length in size)
        or not fields.get(b"ElementType", [b""])[0].startswith(b"MET_")
        or not all(map(_is_number, (value for key in numbers for value in fields.get(key, []))))
    )
    if wrong:
        raise NotAScan("not a readable metaimage file in spite of its name", where=path)
    place = rest.partition(b"\n")[0].strip(b" =\r\t").decode(errors="replace")
    if place.split()[0] not in ("LOCAL", "LIST") and "%" not in place and not (path.parent / place).is_file():
        raise UnreadableScan(f"its data file {place[:80]!r} is missing", where=path)


def _is_number(text: bytes) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def require_whole(path: Path, uncompressed_bytes: int) -> None:
    """Raises UnreadableScan where the data is shorter than the header says; lists of files are left to ITK."""
    with path.open("rb") as file:
        start = file.read(_LONGEST_HEADER)
    header, _, rest = start.partition(_LAST_FIELD)
    name, newline, data = rest.partition(b"\n")
    place = name.strip(b" =\r\t").decode(errors="replace")
    if place == "LOCAL":
        present = path.stat().st_size - (len(start) - len(data))
    elif newline and (path.parent / place).is_file():
        present = (path.parent / place).stat().st_size
    else:
        return
    needed = _compressed_bytes(header) or uncompressed_bytes
    if present < needed:
        raise UnreadableScan(f"truncated or corrupt data: {present} of {needed} bytes", where=path)


def _compressed_bytes(header: bytes) -> int:
    for line in header.splitlines():
        key, _, value = line.partition(b"=")
        if key.strip() == b"CompressedDataSize" and value.strip().isdigit():
            return int(value)
    return 0
