"""How much memory ``med-transfer index`` needs per file, on a first run and on a second one over an unchanged tree.

    python benchmarks/survey_memory.py [--files 10000,60000] [--slices 200]

Trees of that many small DICOM files, in series of ``--slices``, are indexed as by the command, in a process of its own.
KB per file is the rise of its memory to the peak, divided by the number of files; a first run writes the index of
headers, a second one reads it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian
from reading import memory_kib, write_series


def make(folder: Path, n_files: int, n_slices: int) -> None:
    """Series of ``slices`` slices, one folder each; unique UIDs, everything else alike."""
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


def index(folder: Path, out: Path) -> dict[str, float]:
    """Run the command's code once it is loaded: KB per file by which memory rose at its peak, and seconds."""
    from med_transfer.cohorts.indexing import write_index

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, started = memory_kib("VmRSS"), time.perf_counter()
    n_files = write_index(folder, out).n_files
    return {"kb": (memory_kib("VmHWM") - before) / n_files, "s": time.perf_counter() - started}


def measure(folder: Path, scratch: Path) -> dict[str, float]:
    """One run, in a process of its own."""
    environment = os.environ | {"MED_TRANSFER_CACHE": str(scratch / "cache")}
    command = [sys.executable, __file__, "--index", str(folder), str(scratch / "cohort.csv")]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", default="10000,60000")
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--index", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.index:
        print(json.dumps(index(Path(arguments.index[0]), Path(arguments.index[1]))))
        return
    print("| files | first survey | again |\n|---|---|---|")
    for count in map(int, arguments.files.split(",")):
        with tempfile.TemporaryDirectory() as scratch:
            make(Path(scratch, "tree"), count, arguments.slices)
            looks = [measure(Path(scratch, "tree"), Path(scratch)) for _ in range(2)]
        cells = [f"{look['kb']:.2f} KB a file, {look['s']:.0f} s" for look in looks]
        print(f"| {count} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
