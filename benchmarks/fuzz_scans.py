"""Thousands of damaged and hostile scans of every kind, and a table of the outcomes.

    python benchmarks/fuzz_scans.py [--count 2000] [--first 0] [--only dummy,detached]

The kinds and what counts as wrong are in tests/scans/fuzzing.py and tests/scans/hostile.py; each runs in its own
process, which reads through the worker process as the commands do. A crash, a hang, an error outside the package's
error tree, and a scan that is silently read as another one are wrong. Their seeds are printed and can be rerun with
``--first SEED --count 1``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KINDS = {
    "plain": "DICOM, bytes changed by chance",
    "rle": "DICOM in RLE, bytes changed by chance",
    "j2k": "DICOM in JPEG 2000, bytes changed by chance",
    "nifti": "NIfTI, bytes changed by chance",
    "nrrd": "NRRD, bytes changed by chance",
    "mha": "MetaImage, bytes changed by chance",
    "orientation": "zero, parallel, NaN ... orientations",
    "spacing": "spacings, positions and slopes of 1e-9, NaN, 1e308 ...",
    "dummy": "something else in a slice's place, mostly at an end",
    "functional": "makers' own sequences in functional groups",
    "detached": "headers whose voxels lie elsewhere",
    "packed": "a bit changed in compressed voxels",
    "lengths": "lengths and sizes in volume files that cannot be",
    "special": "pipes, sockets, rings of links, deep folders beside a scan",
}
PROGRAM = Path(__file__).parents[1] / "tests" / "scans" / "fuzzing.py"


def run(kind: str, first: int, count: int) -> dict:
    environment = os.environ | {"MED_TRANSFER_CACHE": "off", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, str(PROGRAM), scratch + "/fuzz", str(first), f"{kind}={count}"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"counts": {"wrong": count}, "wrong": {"process": (done.stderr.splitlines() or ["no word"])[-1]}}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", default=",".join(KINDS))
    arguments = parser.parse_args()
    words = ("read", "warned", "refused", "aborted", "wrong")
    totals = dict.fromkeys(words, 0)
    print(f"| kind | what | inputs | {' | '.join(words)} | minutes |\n|{' -- |' * (len(words) + 4)}")
    for kind in arguments.only.split(","):
        started = time.perf_counter()
        result = run(kind, arguments.first, arguments.count)
        counts = [result["counts"].get(word, 0) for word in words]
        totals = {word: totals[word] + count for word, count in zip(words, counts, strict=True)}
        cells = [kind, KINDS[kind], sum(counts), *counts, f"{(time.perf_counter() - started) / 60:.1f}"]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
        for seed, what in result["wrong"].items():
            print(f"{kind} {seed}: {what}", file=sys.stderr)
    print(f"| all | | {sum(totals.values())} | {' | '.join(map(str, totals.values()))} | |")


if __name__ == "__main__":
    main()
