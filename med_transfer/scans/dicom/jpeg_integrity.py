"""Check that a JPEG stream holds the whole image, since libjpeg silently fills in what a damaged one lacks."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors.sentence import Sentence
from med_transfer.scans.dicom.codestream import HUFFMAN_TABLES, START_OF_SCAN, Header, jpeg_segments

LOSSLESS = 0xC3
_RESTART_OR_END = re.compile(rb"\xff+[\xd0-\xd7\xd9]")
_PADDING = b"\xaa" * 64  # starts with a one bit; decoders fill in missing data with zeros
_PADDING_BITS = 16  # up to the end of a byte, and one byte to make the length even
# Runs of differences modulo 2^16, from 0 up: their category, the number of bits of the magnitude (T.81 table H.2), and
# their length. Then the number of bits that follow a category's code.
_CATEGORIES = np.array([*range(17), *range(15, 0, -1)])
_SHARE = np.array([1, *(1 << k for k in range(15)), 1, *(1 << k for k in reversed(range(15)))])
_EXTRA_BITS = np.array([*range(16), 0])
_AT_ONCE = 1 << 15  # differences; small enough for the cache and for reused memory


def require_complete(stream: bytes, header: Header, values: NDArray, decode: Callable[[bytes], NDArray]) -> None:
    """Refuse a JPEG stream that does not hold exactly the image that was decoded from it.

    Encoding a lossless image again must take as many bits as the stream has. This detects bytes that were lost, added
    or zeroed, and most that were changed. Streams of other processes are decoded again with bytes appended, which a
    decoder that has found every pixel ignores. This detects missing bytes, but not changed ones.

    Args:
        stream: up to and including its end marker.
        header: the stream's header.
        values: the image [rows, columns] decoded from it.
        decode: libjpeg.

    Raises:
        ValueError: the stream lacks a part of the image, or holds more.
    """
    bits = _bits_held(stream, header) if header.process == LOSSLESS else None
    if bits is not None:
        complete = 0 <= bits - _bits_needed(stream, header, values) < _PADDING_BITS
    else:
        complete = np.array_equal(values, decode(_with_padding(stream, header)))
    if not complete:
        raise ValueError(Sentence("the JPEG stream is damaged: it does not hold exactly the image"))


def _with_padding(stream: bytes, header: Header) -> bytes:
    """The stream with bytes appended to each restart interval."""
    return stream[: header.scan] + _RESTART_OR_END.sub(lambda marker: _PADDING + marker[0], stream[header.scan :])


def _bits_held(stream: bytes, header: Header) -> int | None:
    """Number of entropy-coded bits, without the zero byte stuffed after each FF and fill bytes before the end marker.

    None if there are restart markers: the padding of each interval is then unknown.
    """
    data = np.frombuffer(stream[header.scan : -2].rstrip(b"\xff"), np.uint8)
    behind_ff = data[1:][data[:-1] == 0xFF]
    if ((behind_ff >= 0xD0) & (behind_ff <= 0xD7)).any():
        return None
    return 8 * (len(data) - int(np.count_nonzero(behind_ff == 0)))


def _bits_needed(stream: bytes, header: Header, values: NDArray) -> int:
    """Bits that lossless JPEG needs for an image with the stream's predictor and Huffman table (ITU-T T.81 H.1.2)."""
    scan = next(body for marker, body, _ in jpeg_segments(stream) if marker == START_OF_SCAN)
    table, predictor, point_transform = scan[2] >> 4, scan[3], scan[5] & 15
    bits = (_code_lengths(stream, table) + _EXTRA_BITS).astype(np.uint8)[_CATEGORIES]
    bits_of_difference = np.repeat(bits, _SHARE)
    first = 1 << (header.precision - point_transform - 1)
    rows = max(1, _AT_ONCE // header.columns)
    needed = 0
    for top in range(0, header.rows, rows):
        above = min(top, 1)  # the row from which the first one is predicted
        # uint16 wraps around as the differences do; only the predictors that halve need a 17th bit
        samples = values[top - above : top + rows].astype(np.int32 if predictor > 4 else np.uint16)
        samples >>= point_transform
        differences = (samples - _prediction(samples, predictor, first))[above:].astype(np.uint16, copy=False)
        needed += int(np.take(bits_of_difference, differences, mode="clip").sum(dtype=np.int64))  # clip: no checks
    return needed


def _prediction(samples: NDArray, predictor: int, first: int) -> NDArray:
    """Predict each sample from its left, upper and upper left neighbours (T.81 table H.1)."""
    prediction = np.empty_like(samples)
    prediction[0, 0], prediction[0, 1:], prediction[1:, 0] = first, samples[0, :-1], samples[:-1, 0]
    a, b, c = samples[1:, :-1], samples[:-1, 1:], samples[:-1, :-1]
    formulas = {
        1: lambda: a,
        2: lambda: b,
        3: lambda: c,
        4: lambda: a + b - c,
        5: lambda: a + ((b - c) >> 1),
        6: lambda: b + ((a - c) >> 1),
        7: lambda: (a + b) >> 1,
    }
    prediction[1:, 1:] = formulas[predictor]()
    return prediction


def _code_lengths(stream: bytes, table: int) -> NDArray[np.int64]:
    """Code length in bits of each category of differences, 0 to 16 (T.81 B.2.4.2); the last definition counts."""
    lengths = np.zeros(17, np.int64)
    for marker, body, _ in jpeg_segments(stream):
        while marker == HUFFMAN_TABLES and len(body) > 17:
            counts, values = body[1:17], body[17 : 17 + sum(body[1:17])]
            if body[0] == table:
                lengths[list(values)] = np.repeat(np.arange(1, 17), list(counts))
            body = body[17 + len(values) :]
    return lengths
