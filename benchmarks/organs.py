"""In how many real scans head, brain and lungs are found, their size, and the processor time.

MED_TRANSFER_DATA=... OMP_NUM_THREADS=1 python benchmarks/organs.py [--pictures FOLDER] [--scans FOLDER]

Writes Markdown for docs/measured/organs.md: organs, and which body part a plan takes the scans for. ``--scans`` uses
the series of a folder of your own instead. ``--pictures`` writes the outline of each brain over twelve slices of its
scan, for visual inspection: a volume within the limits does not show that the outline is right.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from med_transfer.errors import ScanError
from med_transfer.phantoms import phantom_volume
from med_transfer.planning.fingerprint import fingerprint_scan
from med_transfer.preprocessing import resample
from med_transfer.preprocessing.config import ORGANS, OrganName
from med_transfer.preprocessing.organs import STEP_MM, NotFound, Organ, find_organ
from med_transfer.scans import Provenance, Volume, find_series, read_scan
from med_transfer.scans.geometry import Grid


def sources(data: Path) -> Iterator[tuple[str, list[Volume]]]:
    """Name and scans of each source."""
    yield "whole head CT", [read_scan(path) for path in sorted((data / "head_ct/scans").glob("*.nii.gz"))]
    tilted = find_series(data / "dicom/ct_head_ge_tilt_variable_spacing")
    yield "head CT, tilted, uneven slices", [read_scan(series, max_gap_mm=10) for series in tilted]
    yield "limb and trunk CT", [read_scan(path) for path in sorted((data / "sts_ct").glob("*.nii.gz"))]
    abdomen = max(find_series(data / "dicom/ct_abdomen_crlm_1004"), key=lambda series: len(series.files))
    yield "abdominal CT", [read_scan(abdomen)]
    (short,) = find_series(data / "dicom/ct_jpeg2000_20_slices")
    yield "CT of the trunk, 20 slices", [read_scan(short)]
    phantom = phantom_volume(shape=(500, 512, 512))
    yield "phantom chest, 500 x 512 x 512", [Volume(phantom.voxels, phantom.affine, Provenance(Path(), "phantom"))]


def given(folder: Path) -> Iterator[tuple[str, list[Volume]]]:
    """The readable CT series of a folder."""
    scans = []
    for series in find_series(folder):
        with contextlib.suppress(ScanError):
            scans.append(read_scan(series))
    yield folder.name, [scan for scan in scans if scan.provenance.modality in ("", "CT")]


def row(name: str, scans: list[Volume], organ: OrganName) -> str:
    """One row of the table."""
    started = time.process_time()
    found = [find_organ(scan, organ) for scan in scans]
    seconds = (time.process_time() - started) / len(scans)
    volumes = [np.count_nonzero(one.mask) * STEP_MM**3 / 1000 for one in found if isinstance(one, Organ)]
    reasons = Counter(one.reason for one in found if isinstance(one, NotFound))
    size = f"{min(volumes):.0f}-{max(volumes):.0f}" if volumes else "-"
    why = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common()) or "-"
    return f"| {name} | {organ} | {len(volumes)} of {len(scans)} | {size} | {why} | {seconds:.2f} |"


def picture(scan: Volume, organ: Organ, path: Path) -> None:
    """Twelve slices with the outline."""
    grid = Grid(organ.affine, organ.mask.shape)  # type: ignore[arg-type]
    hu, slices = resample(scan.voxels, scan.affine, grid), np.linspace(0, len(organ.mask) - 1, 12).astype(int)
    figure = Figure(figsize=(18, 1.8))
    for axes, index in zip(figure.subplots(1, 12), slices, strict=True):
        axes.imshow(hu[index], cmap="gray", vmin=-20, vmax=100)
        if organ.mask[index].any():
            axes.contour(organ.mask[index], [0.5], colors="r", linewidths=0.7)
        axes.axis("off")
    figure.savefig(path)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--scans", type=Path)
    folder, own = parser.parse_args().pictures, parser.parse_args().scans
    print("| scans | organ | found | millilitres | not found | processor seconds a scan |")
    print("| -- " * 6 + "|")
    found_in = given(own) if own else sources(Path(os.environ["MED_TRANSFER_DATA"]))
    parts = []
    for name, scans in found_in:
        for organ in ORGANS:
            print(row(name, scans, organ), flush=True)
        parts.append((name, Counter(fingerprint_scan(scan).body_region for scan in scans)))
        for number, scan in enumerate(scans if folder else []):
            if isinstance(found := find_organ(scan, "brain"), Organ):
                picture(scan, found, folder / f"{name.replace(' ', '-')}-{number:02d}.png")
    print("\n| scans | part of the body |\n| -- | -- |")
    for name, counts in parts:
        print(f"| {name} | {', '.join(f'{part} {n}' for part, n in counts.most_common())} |")


if __name__ == "__main__":
    main()
