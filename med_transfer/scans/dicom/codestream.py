"""Headers of compressed frames, read before a decoder allocates the memory that they declare."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from med_transfer.errors.sentence import Sentence

_JPEG_START, _JP2_START, _J2K_START = b"\xff\xd8\xff", b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"
HUFFMAN_TABLES, START_OF_SCAN = 0xC4, 0xDA
_START_OF_TILE, _END_OF_IMAGE = b"\xff\x90", b"\xff\xd9"
_JPEG_LS = 0xF7
# Markers without a segment body (T.81 B.1.1.3)
_WITHOUT_LENGTH = {0x00, 0x01, *range(0xD0, 0xDA)}
_FRAME_HEADERS = {*range(0xC0, 0xD0), _JPEG_LS} - {HUFFMAN_TABLES, 0xC8, 0xCC}  # SOF0 to SOF15 and JPEG-LS's SOF55
# The first marker other than stuffing, restart or fill; JPEG-LS stuffs one bit instead of a byte (T.87 A.1)
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_END_OF_JPEG_LS_SCAN = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_HOLE = bytes(512)  # left by an interrupted copy; JPEG 2000's coder never writes such a run


@dataclass(frozen=True)
class Header:
    """Size and sample layout that a compressed stream declares.

    Args:
        rows, columns: size of the image in pixels.
        components: samples per pixel.
        precision: bits per sample.
        signed: whether samples are signed; only JPEG 2000 states it.
        process: JPEG's start-of-frame marker (0xC0 baseline, 0xC3 lossless, 0xF7 JPEG-LS ...); 0 for JPEG 2000.
        scan: offset of a JPEG stream's entropy-coded data.
    """

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool = False
    process: int = 0
    scan: int = 0


def jpeg_segments(stream: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield marker, body and end offset of each segment of a JPEG or JPEG-LS header, up to the first start of scan.

    Raises:
        ValueError: not such a stream, or a truncated header.
    """
    if not stream.startswith(_JPEG_START):
        raise ValueError(Sentence("not a JPEG stream"))
    at, marker = 2, 0
    while marker != START_OF_SCAN:
        while stream[at : at + 2] == b"\xff\xff":  # fill bytes, T.81 B.1.1.2
            at += 1
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        whole = stream[at : at + 1] == b"\xff" and length >= 2 and at + 2 + length <= len(stream)
        if not whole or stream[at + 1] in _WITHOUT_LENGTH:
            raise ValueError(Sentence("the JPEG header is cut off or damaged"))
        marker, body = stream[at + 1], stream[at + 4 : at + 2 + length]
        at += 2 + length
        yield marker, body, at


def jpeg_header(stream: bytes) -> Header:
    """Header of a JPEG or JPEG-LS stream with one frame header (ITU-T T.81 B.2.2, T.87 C.2.2).

    Raises:
        ValueError: not such a stream, or a truncated header.
    """
    *segments, (_, _, scan) = jpeg_segments(stream)
    frames = [(marker, body) for marker, body, _ in segments if marker in _FRAME_HEADERS and len(body) >= 6]
    if len(frames) != 1:
        raise ValueError(Sentence("the JPEG header is damaged"))
    ((process, body),) = frames
    rows, columns = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    return Header(rows, columns, body[5], body[0], process=process, scan=scan)


def jpeg_end(stream: bytes, header: Header) -> int:
    """Offset of the end of a JPEG or JPEG-LS stream of one scan, end marker included.

    Raises:
        ValueError: the stream has no end marker, or more than one scan.
    """
    end = (_END_OF_JPEG_LS_SCAN if header.process == _JPEG_LS else _END_OF_SCAN).search(stream, header.scan)
    if end is None or end[0] != _END_OF_IMAGE:
        raise ValueError(Sentence("the JPEG stream is cut off or damaged"))
    return end.end()


def jpeg2000_codestream(frame: bytes) -> bytes:
    """Extract the codestream from a JP2 file, in which some writers wrap it (ISO/IEC 15444-1 annex I).

    Raises:
        ValueError: the JP2 file has no codestream.
    """
    if not frame.startswith(_JP2_START):
        return frame
    at = 0
    while at + 8 <= len(frame):
        length, kind = int.from_bytes(frame[at : at + 4], "big"), frame[at + 4 : at + 8]
        head = 16 if length == 1 else 8
        if length == 1:
            length = int.from_bytes(frame[at + 8 : at + 16], "big")
        if kind == b"jp2c":
            return frame[at + head : at + length if length else None]
        if length < head:
            break
        at += length
    raise ValueError(Sentence("the JP2 file holds no codestream"))


def jpeg2000_header(codestream: bytes) -> Header:
    """Header of a JPEG 2000 or HTJ2K codestream (ISO/IEC 15444-1 A.5.1).

    Raises:
        ValueError: not such a codestream, a truncated header, or subsampled components.
    """
    if not codestream.startswith(_J2K_START) or len(codestream) < 45:
        raise ValueError(Sentence("not a JPEG 2000 codestream"))
    right, bottom, left, top = (int.from_bytes(codestream[at : at + 4], "big") for at in (8, 12, 16, 20))
    components, depth = int.from_bytes(codestream[40:42], "big"), codestream[42]
    if codestream[43:45] != b"\x01\x01":
        raise ValueError(Sentence("the JPEG 2000 codestream is subsampled"))
    return Header(bottom - top, right - left, components, (depth & 0x7F) + 1, signed=bool(depth & 0x80))


def require_all_tiles(codestream: bytes) -> None:
    """Refuse a JPEG 2000 codestream that lacks a tile, a part of one, some bytes or its end (ISO/IEC 15444-1 A.4).

    OpenJPEG silently leaves missing tiles black and decodes zeros as noise.

    Raises:
        ValueError: something is missing, or lengths are inconsistent.
    """
    parts: Counter[int] = Counter()
    declared: dict[int, int] = {}
    at = _end_of_main_header(codestream)
    while codestream[at : at + 2] == _START_OF_TILE and len(codestream) >= at + 12:
        tile, length, _, count = struct.unpack(">HIBB", codestream[at + 4 : at + 12])
        parts[tile] += 1
        declared[tile] = count or declared.get(tile, 0)  # 0: not stated here
        at = at + max(length, 12) if length else codestream.rfind(_END_OF_IMAGE)  # 0: up to the end
    all_parts = all(declared[tile] in (0, n_parts) for tile, n_parts in parts.items())
    if len(parts) != _tiles(codestream) or not all_parts or codestream[at : at + 2] != _END_OF_IMAGE:
        raise ValueError(Sentence("the JPEG 2000 codestream is cut off or lacks tiles"))
    if _HOLE in codestream:
        raise ValueError(Sentence("the JPEG 2000 codestream has a hole of zeros"))


def _end_of_main_header(codestream: bytes) -> int:
    at = 2
    while at < len(codestream) and codestream[at : at + 2] != _START_OF_TILE:
        at += 2 + max(2, int.from_bytes(codestream[at + 2 : at + 4], "big"))
    return at


def _tiles(codestream: bytes) -> int:
    right, bottom, _, _, width, height, left, top = struct.unpack(">8I", codestream[8:40])
    if not width or not height:
        raise ValueError(Sentence("the JPEG 2000 codestream has empty tiles"))
    return -(-(right - left) // width) * -(-(bottom - top) // height)
