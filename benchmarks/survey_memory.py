"""How much memory ``med-transfer index`` needs a file, on a first look and on one at an unchanged tree.

    python benchmarks/survey_memory.py [--files 20000,80000] [--slices 200]

Trees of so many small DICOM files, in series of ``--slices``, are indexed by the command itself in a process of its
own. The bytes a file are the rise of the peak (``ru_maxrss``) from the first tree to the second over the files between
them: what the program takes for itself is in both.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian
from reading import write_series

from med_transfer.cli.app import app


def make(folder: Path, n_files: int, n_slices: int) -> None:
    """Series of so many slices, a folder each; UIDs of their own, all else alike."""
    hu = np.random.default_rng(0).integers(-1000, 1000, (n_slices, 16, 16)).astype(np.int16)
    write_series(folder / "template", hu, ExplicitVRLittleEndian)
    paths = sorted((folder / "template").iterdir())
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    contents = [path.read_bytes() for path in paths]
    shutil.rmtree(folder / "template")
    for number in range(n_files // n_slices):
        series = folder / f"patient{number:06d}" / "CT_thorax_with_contrast"
        series.mkdir(parents=True)
        for path, header, content in zip(paths, headers, contents, strict=True):
            for uid in (header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID):
                content = content.replace(uid.encode(), f"{uid[:-6]}{number:06d}".encode())
            (series / path.name).write_bytes(content)


def measure(folder: Path, scratch: Path) -> tuple[float, float]:
    """Peak memory in MB and seconds of one ``index``."""
    environment = os.environ | {"MED_TRANSFER_CACHE": str(scratch / "cache")}
    command = [sys.executable, __file__, "--index", str(folder), str(scratch / "cohort.csv")]
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1]) / 1024, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", default="20000,80000")
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--index", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.index:
        app(["index", arguments.index[0], "-o", arguments.index[1]], standalone_mode=False)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    counts = [int(count) for count in arguments.files.split(",")]
    peaks: list[tuple[float, float]] = []
    print("| files | first look | again |\n|---|---|---|")
    for count in counts:
        with tempfile.TemporaryDirectory() as scratch:
            make(Path(scratch, "tree"), count, arguments.slices)
            first, again = (measure(Path(scratch, "tree"), Path(scratch)) for _ in range(2))
        peaks.append((first[0], again[0]))
        print(f"| {count} | {first[0]:.0f} MB, {first[1]:.0f} s | {again[0]:.0f} MB, {again[1]:.0f} s |", flush=True)
    for number, look in enumerate(("first look", "again")):
        rise = (peaks[-1][number] - peaks[0][number]) * 1024 * 1024 / (counts[-1] - counts[0])
        print(f"{look}: {rise / 1024:.2f} KB a file")


if __name__ == "__main__":
    main()
