"""What a compressed frame says of itself, read before any decoder sees it.

A decoder allocates what the header claims, and some fill up silently what a damaged stream lacks. So the size is
read here first, and here is the way to find out whether a JPEG stream was complete.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_JPEG_START, _JP2_START, _J2K_START = b"\xff\xd8\xff", b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, b"\xff\xd9"
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 and JPEG-LS's SOF55
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # a marker that is neither stuffing, restart nor fill
_RESTART_OR_END = re.compile(rb"\xff+[\xd0-\xd7\xd9]")
_PADDING = b"\xaa" * 64  # starts with a one, whereas decoders fill up what is missing with zeros


@dataclass(frozen=True)
class Header:
    """Size and sample layout that a compressed stream declares.

    Args:
        process: JPEG's start-of-frame marker (0xC0 baseline, 0xC3 lossless, 0xF7 JPEG-LS ...); 0 for JPEG 2000.
        precision: bits of a sample.
        signed: only JPEG 2000 can say so.
        scan: where a JPEG stream's entropy-coded data start.
    """

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool = False
    process: int = 0
    scan: int = 0


def jpeg_header(stream: bytes) -> Header:
    """Header of a JPEG or JPEG-LS stream with one frame header (ITU-T T.81 B.2.2, T.87 C.2.2).

    Raises:
        ValueError: not such a stream, or cut off in its header.
    """
    if not stream.startswith(_JPEG_START):
        raise ValueError("not a JPEG stream")
    frame: tuple[int, bytes] | None = None
    at = 2
    while True:
        while stream[at : at + 2] == b"\xff\xff":  # fill bytes, B.1.1.2
            at += 1
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        if stream[at : at + 1] != b"\xff" or length < 2 or at + 2 + length > len(stream):
            raise ValueError("the JPEG header is cut off or damaged")
        marker, body = stream[at + 1], stream[at + 4 : at + 2 + length]
        at += 2 + length
        if marker in _FRAME_HEADERS and (frame or len(body) < 6):
            raise ValueError("the JPEG header is damaged")
        if marker in _FRAME_HEADERS:
            frame = marker, body
        elif marker == _START_OF_SCAN:
            return _jpeg_frame(frame, at)


def _jpeg_frame(frame: tuple[int, bytes] | None, scan: int) -> Header:
    if frame is None:
        raise ValueError("the JPEG header names no size")
    process, body = frame
    rows, columns = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    return Header(rows, columns, body[5], body[0], process=process, scan=scan)


def jpeg_with_padding(stream: bytes, scan: int) -> tuple[bytes, bytes]:
    """A JPEG stream of one scan up to its end marker, and the same with bytes added behind each interval.

    A decoder that has found every pixel ignores what follows in the interval. So the two decode to the same image
    if and only if the stream held all of it; libjpeg would fill up the rest without a word.

    Raises:
        ValueError: the stream has no end marker, or more than one scan.
    """
    end = _END_OF_SCAN.search(stream, scan)
    if end is None or end[0] != _END_OF_IMAGE:
        raise ValueError("the JPEG stream is cut off or damaged")
    entropy_coded = stream[scan : end.end()]
    padded = _RESTART_OR_END.sub(lambda marker: _PADDING + marker[0], entropy_coded)
    return stream[: end.end()], stream[:scan] + padded


def jpeg2000_codestream(frame: bytes) -> bytes:
    """The codestream alone, taken out of the JP2 file that some writers wrap it in (ISO/IEC 15444-1 annex I)."""
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
    raise ValueError("the JP2 file holds no codestream")


def jpeg2000_header(codestream: bytes) -> Header:
    """Header of a JPEG 2000 or HTJ2K codestream (ISO/IEC 15444-1 A.5.1).

    Raises:
        ValueError: not such a codestream, cut off in its header, or with subsampled components.
    """
    if not codestream.startswith(_J2K_START) or len(codestream) < 45:
        raise ValueError("not a JPEG 2000 codestream")
    right, bottom, left, top = (int.from_bytes(codestream[at : at + 4], "big") for at in (8, 12, 16, 20))
    components, depth = int.from_bytes(codestream[40:42], "big"), codestream[42]
    if codestream[43:45] != b"\x01\x01":
        raise ValueError("the JPEG 2000 codestream is subsampled")
    return Header(bottom - top, right - left, components, (depth & 0x7F) + 1, signed=bool(depth & 0x80))
