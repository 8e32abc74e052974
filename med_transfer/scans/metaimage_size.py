"""Whether a MetaImage holds all its data. ITK would complain on standard output, where a program may be reading."""

from __future__ import annotations

from pathlib import Path

from med_transfer.errors import UnreadableScan

_LONGEST_HEADER = 1 << 16
_LAST_FIELD = b"ElementDataFile"  # the data, or the name of the file that has them, comes right after


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
