"""Read the voxels of an NRRD or MetaImage file from where its header says they are, and decompress them.

ITK opens any file that a header names, anywhere, crashes on some names, and decompresses without verifying checksums,
so that a flipped bit changes voxels. ITK therefore reads only the header; the voxels are read here.
"""

from __future__ import annotations

import bz2
import gzip
import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import NotAScan, UnreadableScan, unreadable
from med_transfer.errors.sentence import Sentence, message_of

LONGEST_HEADER = 1 << 20  # bytes; enough to list a file for each of thousands of slices
_MAX_FILES = 1 << 16
_CHUNK = 1 << 24
MAX_DEFLATED = 1032  # largest compression ratio of gzip and zlib (zlib's documentation)
_MAX_PACKED = {"raw": 1, "gzip": MAX_DEFLATED, "zlib": MAX_DEFLATED}
_NUMBERED = re.compile(r"([^%]*%0?\d{0,2}d[^%]*?)\s+(-?\d+)\s+(-?\d+)\s+(-?\d+)(?:\s+\d+)?")


@dataclass(frozen=True)
class StoredData:
    """Location and encoding of voxels.

    Attributes:
        files: files with the voxels, in order; the header's own file if they follow the header.
        at: offset of the voxels in each file; -1 if they are its last bytes.
        encoding: raw | gzip | bzip2 | zlib | text.
        big_endian: byte order of the values.
        units: units of length as written, one for each spatial axis or for all; empty if not stated.
        has_origin: whether the header states the position of the first voxel.
    """

    files: tuple[Path, ...]
    at: int = 0
    encoding: str = "raw"
    big_endian: bool = False
    units: tuple[str, ...] = ()
    has_origin: bool = True


def named_files(header: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """The data files that a header names, in its own folder or below.

    Raises:
        UnreadableScan: one is elsewhere, missing, or not a regular file; or there is none.
    """
    folder = header.parent.resolve()
    try:
        files = tuple((folder / name).resolve() for name in names)
        inside = all(path.is_relative_to(folder) for path in files)
        missing = next((path for path in files if not path.is_file()), None) if inside else None
    except (OSError, ValueError, RuntimeError) as error:  # an invalid name: too long, a null byte, circular links
        raise UnreadableScan(
            Sentence("its data file cannot be found ({kind})", kind=type(error).__name__), where=header
        ) from error
    if not inside:
        raise UnreadableScan(
            "its data file lies outside the folder of the header",
            where=header,
            expected="a data file beside the header or below it",
            action="Move it there if you trust the header",
        )
    if missing or not files:
        raise UnreadableScan(
            Sentence("its data file {name!r} is missing", name=missing.name[:80] if missing else ""), where=header
        )
    return files


def numbered(header: Path, text: str) -> list[str]:
    """File names from a pattern with first number, last number and step, such as ``slice%03d.raw 1 40 1``.

    Raises:
        NotAScan: not of this form.
    """
    match = _NUMBERED.fullmatch(text)
    first, last, step = map(int, match.groups()[1:]) if match else (0, 0, 0)
    numbers = range(first, last + (1 if step > 0 else -1), step) if step else range(0)
    if not match or not 0 < len(numbers) <= _MAX_FILES:
        raise NotAScan("no pattern of data files", where=header, expected="such as slice%03d.raw 1 40 1")
    return [match[1] % number for number in numbers]


def require_room(data: StoredData, size: int, where: Path) -> None:
    """Raise UnreadableScan if the files are too small to hold ``size`` bytes, even compressed."""
    there = sum(path.stat().st_size for path in data.files) - max(data.at, 0)
    if there * _MAX_PACKED.get(data.encoding, size) < size:
        raise UnreadableScan(
            Sentence("truncated or corrupt data: {there} bytes for {size}", there=max(there, 0), size=size), where=where
        )


def read_values(data: StoredData, dtype: np.dtype, shape: Sequence[int], where: Path) -> NDArray:
    """Read the stored values in native byte order; checksums of compressed data are verified.

    Args:
        data: location and encoding; not ``text``.
        dtype: of one value.
        shape: of the result, the slowest axis first.
        where: the file that an error names.

    Raises:
        UnreadableScan: fewer bytes than the shape requires, more bytes other than padding, or damaged compressed data.
    """
    size = int(np.prod([int(length) for length in shape], dtype=object)) * dtype.itemsize
    try:
        if size % len(data.files):
            raise ValueError(Sentence("not as many bytes in each file"))
        parts = [_read_bytes(path, data, size // len(data.files)) for path in data.files]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        found = Sentence("truncated or corrupt data ({error})", error=_error_text(error))
        raise unreadable(found, error, where=where) from error
    content = parts[0] if len(parts) == 1 else np.concatenate(parts)
    values = content.view(dtype.newbyteorder(">" if data.big_endian else "<")).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=not values.flags.writeable)


def _error_text(error: Exception) -> str:
    return message_of(error) if type(error) is ValueError else type(error).__name__


def _read_bytes(path: Path, data: StoredData, size: int) -> NDArray[np.uint8]:
    with path.open("rb") as file:
        if data.encoding == "raw":
            there = path.stat().st_size - max(data.at, 0)
            if there < size:
                raise ValueError(Sentence("{there} of {size} bytes", there=max(there, 0), size=size))
            file.seek(data.at if data.at >= 0 else there - size)
            values = np.fromfile(file, np.uint8, size)
            if holds_more(file):
                raise ValueError(Sentence("{n} bytes instead of {size}, and more than padding", n=there, size=size))
            return values
        file.seek(data.at)
        values = _INFLATE[data.encoding](file, size + 1)  # one byte more, to reach the checksum
    if len(values) != size:
        raise ValueError(Sentence("not {size} bytes when unpacked", size=size))
    return np.frombuffer(values, np.uint8)


def read_at_most(file: io.BufferedIOBase, max_bytes: int) -> bytes:
    """At most ``max_bytes``, read in chunks; one large read would allocate whatever size the header claims."""
    chunks: list[bytes] = []
    while max_bytes and (chunk := file.read(min(max_bytes, _CHUNK))):
        chunks.append(chunk)
        max_bytes -= len(chunk)
    return b"".join(chunks)


def holds_more(file: io.BufferedIOBase) -> bool:
    """Whether anything other than padding follows in an open file."""
    return any(chunk.strip(b"\0") for chunk in iter(partial(file.read, _CHUNK), b""))


def _gunzip(file: BinaryIO, max_bytes: int) -> bytes:
    return read_at_most(gzip.GzipFile(fileobj=file), max_bytes)


def _bunzip2(file: BinaryIO, max_bytes: int) -> bytes:
    return read_at_most(bz2.BZ2File(file), max_bytes)


def _inflate(file: BinaryIO, max_bytes: int) -> bytes:
    stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # like MetaIO, which also accepts a gzip header
    values = stream.decompress(file.read(), max_bytes)
    if not stream.eof:
        raise EOFError
    return values


_INFLATE = {"gzip": _gunzip, "bzip2": _bunzip2, "zlib": _inflate}
