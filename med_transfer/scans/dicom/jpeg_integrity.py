"""Whether a JPEG stream held the whole image: libjpeg fills up what a damaged one lacks, without a word."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors.sentence import Sentence
from med_transfer.scans.dicom.codestream import HUFFMAN_TABLES, START_OF_SCAN, Header, jpeg_segments

LOSSLESS = 0xC3
_RESTART_OR_END = re.compile(rb"\xff+[\xd0-\xd7\xd9]")
_PADDING = b"\xaa" * 64  # starts with a one, whereas decoders fill up what is missing with zeros
_PADDING_BITS = 16  # up to a byte's end, and a byte more to make the length even
# Of each difference modulo 2^16, in order: its category, which is the digits of its magnitude (T.81 table H.2), and
# how many neighbours share it. And the bits that follow a category's code.
_CATEGORIES = np.array([*range(17), *range(15, 0, -1)])
_SHARE = np.array([1, *(1 << k for k in range(15)), 1, *(1 << k for k in reversed(range(15)))])
_EXTRA_BITS = np.array([*range(16), 0])
_AT_ONCE = 1 << 15  # differences; what is made of them stays in the cache, and in memory that the system need not clear


def require_complete(stream: bytes, header: Header, values: NDArray, decode: Callable[[bytes], NDArray]) -> None:
    """Refuse a JPEG stream that lacks a part of the image that was decoded from it, or holds more.

    A lossless image, encoded again, must need as many bits as the stream has: bytes lost, added or zeroed show,
    and so do most changed ones. The other processes are decoded once more, with bytes added to the stream: a
    decoder that has found every pixel ignores them. That shows what is missing, not what has changed.

    Args:
        stream: up to its end marker.
        values: the image [rows, columns] decoded from it.
        decode: libjpeg.

    Raises:
        ValueError: not the whole image, and nothing else.
    """
    bits = _bits_held(stream, header) if header.process == LOSSLESS else None
    if bits is not None:
        complete = 0 <= bits - _bits_needed(stream, header, values) < _PADDING_BITS
    else:
        complete = np.array_equal(values, decode(_with_padding(stream, header)))
    if not complete:
        raise ValueError(Sentence("the JPEG stream is damaged: it does not hold exactly the image"))


def _with_padding(stream: bytes, header: Header) -> bytes:
    """The same stream with bytes added behind each restart interval."""
    return stream[: header.scan] + _RESTART_OR_END.sub(lambda marker: _PADDING + marker[0], stream[header.scan :])


def _bits_held(stream: bytes, header: Header) -> int | None:
    """Entropy-coded bits, without the zero byte stuffed behind each FF and the fill bytes before the end marker.

    None where there are restart markers: then nobody knows where in an interval the bits are.
    """
    data = np.frombuffer(stream[header.scan : -2].rstrip(b"\xff"), np.uint8)
    behind_ff = data[1:][data[:-1] == 0xFF]
    if ((behind_ff >= 0xD0) & (behind_ff <= 0xD7)).any():
        return None
    return 8 * (len(data) - int(np.count_nonzero(behind_ff == 0)))


def _bits_needed(stream: bytes, header: Header, values: NDArray) -> int:
    """Bits that lossless JPEG spends on an image with the stream's own predictor and table (ITU-T T.81 H.1.2)."""
    scan = next(body for marker, body, _ in jpeg_segments(stream) if marker == START_OF_SCAN)
    table, predictor, point_transform = scan[2] >> 4, scan[3], scan[5] & 15
    bits = (_code_lengths(stream, table) + _EXTRA_BITS).astype(np.uint8)[_CATEGORIES]
    bits_of_difference = np.repeat(bits, _SHARE)
    first = 1 << (header.precision - point_transform - 1)
    rows = max(1, _AT_ONCE // header.columns)
    needed = 0
    for top in range(0, header.rows, rows):
        above = min(top, 1)  # the row that the first one is predicted from
        # uint16 wraps round as the differences do; only the predictors that halve a sum need its seventeenth bit
        samples = values[top - above : top + rows].astype(np.int32 if predictor > 4 else np.uint16)
        samples >>= point_transform
        differences = (samples - _prediction(samples, predictor, first))[above:].astype(np.uint16, copy=False)
        needed += int(np.take(bits_of_difference, differences, mode="clip").sum(dtype=np.int64))  # clip: unchecked
    return needed


def _prediction(samples: NDArray, predictor: int, first: int) -> NDArray:
    """Prediction of each sample from its left, upper and upper left neighbours (T.81 table H.1)."""
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
    """Length of the code of each category of differences, 0 to 16 (T.81 B.2.4.2); the last definition counts."""
    lengths = np.zeros(17, np.int64)
    for marker, body, _ in jpeg_segments(stream):
        while marker == HUFFMAN_TABLES and len(body) > 17:
            counts, values = body[1:17], body[17 : 17 + sum(body[1:17])]
            if body[0] == table:
                lengths[list(values)] = np.repeat(np.arange(1, 17), list(counts))
            body = body[17 + len(values) :]
    return lengths
