"""OpenJPEG and OpenJPH on HTJ2K: time per frame, and how many damaged streams each refuses.

    python benchmarks/htj2k_decoders.py [--damaged 200] [--seed 0]

Streams are damaged in seven ways; those refused by the check of the codestream's structure before decoding are left
out. The dangerous outcome is a stream that is silently decoded to other values. Prints Markdown.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from med_transfer.scans.dicom.codestream import jpeg2000_header, require_all_tiles

DECODERS: dict[str, Callable[[bytes], NDArray]] = {
    "OpenJPEG": lambda stream: imagecodecs.jpeg2k_decode(stream, numthreads=1),
    "OpenJPH": imagecodecs.htj2k_decode,
}
KINDS = ("a byte", "eight bytes", "64 zeros", "64 times FF", "64 bytes swapped", "zeros to the end", "bytes lost")


def image(rows: int, columns: int) -> NDArray[np.uint16]:
    """A smooth 12-bit image with the noise of a CT."""
    y, x = np.mgrid[:rows, :columns]
    noise = np.random.default_rng(0).normal(0, 15, (rows, columns))
    return (2000 + 900 * np.sin(x / 40) * np.cos(y / 30) + noise).astype(np.uint16)


def damaged(stream: bytes, kind: str, rng: random.Random) -> bytes:
    changed, first = bytearray(stream), len(stream) // 8  # after the main header
    at = rng.randrange(first, len(stream) - 400)
    if kind in ("a byte", "eight bytes"):
        for _ in range(1 if kind == "a byte" else 8):
            changed[rng.randrange(first, len(stream) - 2)] = rng.randrange(256)
    elif kind in ("64 zeros", "64 times FF"):
        changed[at : at + 64] = (b"\0" if kind == "64 zeros" else b"\xff") * 64
    elif kind == "64 bytes swapped":
        changed[at : at + 128] = changed[at + 64 : at + 128] + changed[at : at + 64]
    elif kind == "zeros to the end":
        at = rng.randrange(len(stream) - 500, len(stream) - 2)  # a longer run is refused as a gap
        changed[at:-2] = bytes(len(stream) - 2 - at)
    else:  # the tile part's length put right, which alone would tell
        lost, part = rng.randrange(1, 200), changed.find(b"\xff\x90\x00\x0a")
        del changed[at : at + lost]
        length = int.from_bytes(changed[part + 6 : part + 10], "big")
        changed[part + 6 : part + 10] = (length - lost if length else 0).to_bytes(4, "big")
    return bytes(changed)


def verdict(decode: Callable[[bytes], NDArray], stream: bytes, whole: NDArray) -> str:
    try:
        values = decode(stream)
    except Exception:
        return "refused"
    return "same" if np.array_equal(values, whole) else "other values"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damaged", type=int, default=200, help="streams of each kind")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    large, small = (bytes(imagecodecs.htj2k_encode(image(n, n), reversible=True)) for n in (512, 128))
    whole = {name: decode(small) for name, decode in DECODERS.items()}
    counts: dict[str, dict[str, Counter[str]]] = {name: {kind: Counter() for kind in KINDS} for name in DECODERS}
    for kind in KINDS:
        rng = random.Random(f"{kind} {arguments.seed}")
        for _ in range(arguments.damaged):
            stream = damaged(small, kind, rng)
            try:
                jpeg2000_header(stream)
                require_all_tiles(stream)
            except ValueError:
                continue
            for name, decode in DECODERS.items():
                counts[name][kind][verdict(decode, stream, whole[name])] += 1
    print("| decoder | ms a frame | " + " | ".join(KINDS) + " |\n" + "| -- " * (2 + len(KINDS)) + "|")
    for name, decode in DECODERS.items():
        started = time.process_time()
        for _ in range(20):
            decode(large)
        cells = [f"{count['refused']} of {count.total() - count['same']}" for count in counts[name].values()]
        print(f"| {name} | {(time.process_time() - started) * 50:.2f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
