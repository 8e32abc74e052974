"""A lossless JPEG encoder written from ITU-T T.81 annex H: every predictor, point transform, restart intervals."""

from __future__ import annotations

import numpy as np

_TABLE = 0xC4, bytes([0, *([0] * 4), 15, 2, *([0] * 10), *range(17)])  # 15 codes of 5 bits, 2 of 6
_CODES = {category: (category, 5) if category < 15 else (30 + category - 15, 6) for category in range(17)}


def encode(
    image: np.ndarray, *, predictor: int, precision: int, point_transform: int = 0, restart_rows: int = 0
) -> bytes:
    """Lossless JPEG stream (SOF3, Huffman) of unsigned values [rows, columns]."""
    rows, columns = image.shape
    size = rows.to_bytes(2, "big") + columns.to_bytes(2, "big")
    stream = b"\xff\xd8" + _segment(0xC3, bytes([precision]) + size + bytes([1, 1, 0x11, 0])) + _segment(*_TABLE)
    if restart_rows:
        stream += _segment(0xDD, (restart_rows * columns).to_bytes(2, "big"))
    stream += _segment(0xDA, bytes([1, 1, 0, predictor, 0, point_transform]))
    samples, first = image.astype(int) >> point_transform, 1 << (precision - point_transform - 1)
    step = restart_rows or rows
    for k, row in enumerate(range(0, rows, step)):
        stream += bytes([0xFF, 0xD0 + (k - 1) % 8]) if k else b""
        stream += _interval(samples[row : row + step], predictor, first)
    return stream + b"\xff\xd9"


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def _interval(samples: np.ndarray, predictor: int, first: int) -> bytes:
    bits = "".join(
        _difference(int(samples[y, x]) - _prediction(samples, y, x, predictor, first))
        for y, x in np.ndindex(samples.shape)
    )
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")


def _prediction(samples: np.ndarray, y: int, x: int, predictor: int, first: int) -> int:
    if y == 0:
        return int(samples[0, x - 1]) if x else first
    if x == 0:
        return int(samples[y - 1, 0])
    a, b, c = int(samples[y, x - 1]), int(samples[y - 1, x]), int(samples[y - 1, x - 1])
    return [a, b, c, a + b - c, a + ((b - c) >> 1), b + ((a - c) >> 1), (a + b) >> 1][predictor - 1]


def _difference(value: int) -> str:
    value = (value + 32767) % 65536 - 32767
    category = abs(value).bit_length()
    code, length = _CODES[category]
    extra = value if value > 0 else value + (1 << category) - 1
    return f"{code:0{length}b}" + (f"{extra:0{category}b}" if 0 < category < 16 else "")
