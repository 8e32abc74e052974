"""A fast partial parser that reads only requested elements of a DICOM header.

A full parser turns several hundred elements per file into objects. Surveying ten thousand files and reading a series
take only about fifty elements as text and the location of the pixels. This parser of the encodings in PS3.5 section 7
skips all other elements by their length. Files that it does not support (no preamble, big endian, deflated, odd
lengths) are left to pydicom, which is the reference: tests check that both give the same values.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset, FileDataset
from pydicom.multival import MultiValue
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

Values = dict[str, tuple[str, ...]]
Stamp = tuple[int, int, int, int]  # of a file: size, mtime and ctime in ns, inode
NO_STAMP: Stamp = (-1, -1, -1, -1)

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_DATA = 0x7FE00010
_PIXELS = (0x7FE00008, 0x7FE00009, _PIXEL_DATA)  # float, double and integer pixels
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_BINARY = {b"US": "H", b"SS": "h", b"UL": "I", b"SL": "i", b"FL": "f", b"FD": "d"}
_TEXT = frozenset((b"LO", b"SH", b"ST", b"LT", b"PN", b"UC", b"UT"))  # need not be ASCII (PS3.5 section 6.1.2)
_ONE_TEXT = frozenset((b"ST", b"LT", b"UT"))  # a backslash is part of the text (PS3.5 section 6.2)
_MAX_DEPTH = 16
_FIRST_READ = 16 * 1024  # bytes; most headers of CT slices are shorter
_SYNTAX, _CHARACTER_SET = 0x00020010, 0x00080005
_OVERLAY = {"OverlayBitPosition": 0x60000102}  # in the first of sixteen repeating groups (PS3.5 section 7.6)
_NEEDED = frozenset((_SYNTAX, _CHARACTER_SET))
_EXPLICIT = struct.Struct("<HH2sH")


class _UnusualError(Exception):
    """An encoding that this parser leaves to pydicom."""


@dataclass(frozen=True)
class Header:
    """Requested elements of one file.

    Attributes:
        values: keyword to the parts of its value as stripped text; ``("present",)`` for a non-empty sequence; empty and
            absent elements have no entry.
        syntax: transfer syntax UID.
        pixels_at: file offset of PixelData's value; None if unknown, for files read by pydicom or without pixels.
        pixels_length: its length in bytes; None if encapsulated or unknown.
        has_pixels: whether the file has pixel data.
        stamp: of the file when it was read.
    """

    values: Values
    syntax: str
    pixels_at: int | None
    pixels_length: int | None
    has_pixels: bool
    stamp: Stamp


def stamp_of(stat: os.stat_result) -> Stamp:
    """Stamp that shows whether a file has changed; ``rsync -t`` preserves size and mtime, but not ctime and inode."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def read_header(path: Path, keywords: Iterable[str]) -> Header:
    """Read the elements with these keywords. Raises OSError, and anything that pydicom raises on invalid bytes."""
    wanted = _tags(tuple(keywords))
    try:
        with path.open("rb") as file:
            return _Walk(file, wanted).header(stamp_of(os.fstat(file.fileno())))
    except (_UnusualError, struct.error, ValueError, LookupError):
        return _with_pydicom(path, wanted)


@functools.cache
def _tags(keywords: tuple[str, ...]) -> dict[int, str]:
    return dict(sorted((_tag(keyword), keyword) for keyword in keywords))


def _tag(keyword: str) -> int:
    return int(_OVERLAY.get(keyword) or tag_for_keyword(keyword) or 0)


class _Walk:
    """One pass over the elements of a little-endian file, up to its pixels."""

    def __init__(self, file: BinaryIO, wanted: dict[int, str]) -> None:
        self._file, self._wanted = file, wanted
        self._bytes = file.read(_FIRST_READ)
        self._raw: dict[int, tuple[bytes, bytes]] = {}  # tag -> value representation, value

    def header(self, stamp: Stamp) -> Header:
        if self._bytes[128:132] != b"DICM":
            raise _UnusualError
        at = self._elements(132, explicit=True, below=0x00030000)
        syntax = self._raw[_SYNTAX][1].decode("ascii").strip("\0 ")
        if syntax in (ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian) or not syntax:
            raise _UnusualError
        explicit = syntax != ImplicitVRLittleEndian
        at = self._elements(at, explicit, below=_PIXELS[0])
        pixels_at, length = self._pixels(at, explicit)
        values = {self._wanted[tag]: text for tag in self._raw if tag in self._wanted and (text := self._text(tag))}
        return Header(values, syntax, pixels_at, length, pixels_at is not None, stamp)

    def _elements(self, at: int, explicit: bool, below: int) -> int:
        """Keep the wanted elements from ``at`` on; return the offset of the first tag >= ``below``, or of the end."""
        wanted, last, header = self._wanted, 0, _EXPLICIT.unpack_from
        while at + 8 <= len(self._bytes) or self._reach(at + 8):
            group, element, representation, length = header(self._bytes, at)
            tag = group << 16 | element
            if tag >= below:  # checked before its encoding, which may change after group 2
                break
            if tag <= last:  # tags must increase (PS3.5 section 7.1), or these are not elements
                raise _UnusualError
            last, start = tag, at + 8
            if not explicit or representation not in _SHORT:
                _, representation, start, length = self._element(at, explicit)
            if length == _UNDEFINED:
                at = self._past_sequence(tag, representation, start, explicit)
                continue
            at = start + length
            if tag in wanted or tag in _NEEDED:
                if at > len(self._bytes) and not self._reach(at):
                    raise _UnusualError
                self._raw[tag] = (representation, self._bytes[start:at])
        return at

    def _past_sequence(self, tag: int, representation: bytes, start: int, explicit: bool) -> int:
        if explicit and representation not in (b"SQ", b"UN"):
            raise _UnusualError
        if tag in self._wanted:
            self._raw[tag] = (b"SQ", b"present")
        return self._past_items(start, explicit and representation == b"SQ")

    def _element(self, at: int, explicit: bool) -> tuple[int, bytes, int, int]:
        """Tag, value representation (empty if implicit), offset of the value, and its length."""
        if not self._reach(at + 8):
            raise _UnusualError
        group, element, representation, length = _EXPLICIT.unpack_from(self._bytes, at)
        tag = group << 16 | element
        if group == 0xFFFE or not explicit:
            return tag, b"", at + 8, struct.unpack_from("<I", self._bytes, at + 4)[0]
        if representation in _SHORT:
            return tag, representation, at + 8, length
        if representation not in _LONG or not self._reach(at + 12):
            raise _UnusualError
        return tag, representation, at + 12, struct.unpack_from("<I", self._bytes, at + 8)[0]

    def _past_items(self, at: int, explicit: bool, depth: int = 0) -> int:
        """The offset after a sequence of undefined length (PS3.5 section 7.5)."""
        if depth > _MAX_DEPTH:
            raise _UnusualError
        while True:
            tag, _, at, length = self._element(at, explicit)
            if tag == _SEQUENCE_END:
                return at
            if tag != _ITEM:
                raise _UnusualError
            at = at + length if length != _UNDEFINED else self._past_item(at, explicit, depth)

    def _past_item(self, at: int, explicit: bool, depth: int) -> int:
        while True:
            tag, representation, at, length = self._element(at, explicit)
            if tag == _ITEM_END:
                return at
            if length == _UNDEFINED:
                at = self._past_items(at, explicit and representation != b"UN", depth + 1)
            else:
                at += length

    def _pixels(self, at: int, explicit: bool) -> tuple[int | None, int | None]:
        if not self._reach(at + 8):
            return None, None
        tag, _, start, length = self._element(at, explicit)
        if tag != _PIXEL_DATA:
            raise _UnusualError
        return start, None if length == _UNDEFINED else length

    def _reach(self, end: int) -> bool:
        """Whether the file has ``end`` bytes; reads on if needed, doubling the buffer to avoid quadratic copying."""
        if end > len(self._bytes):
            self._bytes += self._file.read(max(end - len(self._bytes), len(self._bytes), _FIRST_READ))
        return end <= len(self._bytes)

    def _text(self, tag: int) -> tuple[str, ...]:
        representation, value = self._raw[tag]
        if representation in (b"", b"UN"):  # UN values are encoded like implicit ones (PS3.5 section 6.2.2)
            representation = dictionary_VR(tag)[:2].encode()  # "US or SS" is read as US; dicom.pixels corrects the sign
        if representation == b"SQ":
            return ("present",) if value else ()
        if code := _BINARY.get(representation):
            count = len(value) // struct.calcsize(code)
            return tuple(str(number) for number in struct.unpack(f"<{count}{code}", value))
        text = self._decoded(value) if representation in _TEXT else value.decode("latin-1")
        return _parts([text] if representation in _ONE_TEXT else text.split("\\"))

    def _decoded(self, value: bytes) -> str:
        if value.isascii() and b"\x1b" not in value:
            return value.decode("ascii")
        _, declared = self._raw.get(_CHARACTER_SET, (b"", b""))
        names = [name.strip() for name in declared.decode("ascii", "replace").strip("\0 ").split("\\")]
        return decode_bytes(value, convert_encodings(names), {ord("\\"), ord("\r"), ord("\n")})


def _parts(parts: Iterable[str]) -> tuple[str, ...]:
    """Strip the parts and drop empty ones at the end."""
    stripped = [part.strip("\0 ") for part in parts]
    while stripped and not stripped[-1]:
        del stripped[-1]
    return tuple(stripped)


def _with_pydicom(path: Path, wanted: dict[int, str]) -> Header:
    with path.open("rb") as file:
        stamp = stamp_of(os.fstat(file.fileno()))
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(wanted), force=True)
    values = values_of(dataset.file_meta, wanted.values()) | values_of(dataset, wanted.values())
    return Header(values, _syntax(dataset), None, None, _has_pixels(path), stamp)


def values_of(dataset: Dataset, keywords: Iterable[str]) -> Values:
    """Values with these keywords from a data set read by pydicom, in the same form as :class:`Header` has them."""
    return {keyword: parts for keyword in keywords if (parts := _pydicom_parts(dataset, keyword))}


def _pydicom_parts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    tag = _tag(keyword)
    if tag not in dataset:
        return ()
    element = dataset[tag]
    if element.VR == "SQ":
        return ("present",) if len(element.value) else ()
    value = element.value
    if value is None or (isinstance(value, str | bytes) and not value):
        return ()
    if isinstance(value, bytes):  # UN, if the dictionary does not know the tag
        value = value.decode("latin-1")
    several = isinstance(value, MultiValue | list)
    return _parts([_as_text(part) for part in (value if several else [value])])


def _as_text(value: object) -> str:
    return str(getattr(value, "original_string", None) or ("" if value is None else value))


def _syntax(dataset: FileDataset) -> str:
    """Transfer syntax as declared, or as detected by pydicom for a file without preamble."""
    declared = dataset.file_meta.get("TransferSyntaxUID")
    if declared:
        return str(declared)
    implicit, little = dataset.original_encoding
    if not little:
        return ExplicitVRBigEndian
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian


def _has_pixels(path: Path) -> bool:
    dataset = pydicom.dcmread(path, specific_tags=["PixelData"], force=True, defer_size=1024)
    return any(int(tag) in _PIXELS for tag in dataset.keys())  # noqa: SIM118  iterating would load the values
