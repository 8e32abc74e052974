"""What many scans cost: ``predict`` on 1,000, 4,000 and 10,000 small scans, each with its own noise.

    python benchmarks/many_scans.py --counts 1000 4000 10000 > table.md

CT of 24 slices of 48 x 48 as NIfTI, so that the costs that do not depend on a scan's size show: reading processes,
journal, guards, table. One network (resnet18-w32, random weights) on 16 x 16 x 16 voxels of the whole scan. Start and
table included; memory is the largest sum of proportional set sizes of the processes. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import inference
import nibabel as nib
import numpy as np

SHAPE, SPACING_MM = (24, 48, 48), (5.0, 3.0, 3.0)


def write_scans(folder: Path, count: int) -> None:
    folder.mkdir()
    z, y, x = (np.linspace(-1, 1, n) for n in SHAPE)
    body = np.where(np.hypot(*np.meshgrid(y / 0.7, x / 0.9, indexing="ij")) < 1, 40.0, -1000.0)
    for number in range(count):
        noise = np.random.default_rng(number).normal(0, 20, SHAPE) + 10 * z[:, None, None]
        image = (body + noise).astype(np.int16).T
        nib.save(nib.Nifti1Image(image, np.diag([*SPACING_MM[::-1], 1.0])), folder / f"{number:05d}.nii")


def measure(scans: Path, bundle: Path, out: Path) -> str:
    """The figures of one row."""
    command = [sys.executable, "-m", "med_transfer", "predict", str(bundle), str(scans), "-o", str(out)]
    before, started = os.times(), time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, inference.tree_gib(process.pid))
        time.sleep(0.5)
    seconds, after = time.monotonic() - started, os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    rows = (out / "predictions.csv").read_text().count(",ok,")
    size = sum(file.stat().st_size for file in out.iterdir()) / 2**20
    return f"{rows} | {seconds:.0f} | {60 * rows / seconds:.0f} | {1000 * spent / rows:.0f} | {peak:.2f} | {size:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 4000, 10000])
    chosen = parser.parse_args()
    inference.SHAPE = (16, 16, 16)
    print("| scans ok | s | scans/min | processor ms a scan | peak GiB | MiB written |\n" + "| -- " * 6 + "|")
    with tempfile.TemporaryDirectory() as place:
        bundle = inference.write_bundle(Path(place) / "bundle")
        for count in chosen.counts:
            write_scans(Path(place) / f"scans-{count}", count)
            print(f"| {measure(Path(place) / f'scans-{count}', bundle, Path(place) / f'out-{count}')} |", flush=True)


if __name__ == "__main__":
    main()
