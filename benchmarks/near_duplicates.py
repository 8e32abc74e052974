"""How well the perceptual hash distinguishes altered copies of a scan from scans of other patients, on real scans.

    MED_TRANSFER_DATA=... OMP_NUM_THREADS=1 python benchmarks/near_duplicates.py

For each group: the highest similarity of two scans of different patients (and how many pairs exceed the limit), then
for each kind of copy the lowest similarity to its original and the share found. Scans are hashed as a network sees
them, fitted into the input (``whole``) and at fixed spacing (``fixed``). Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from med_transfer.cohorts.near_duplicates import COPY_CORRELATION, fingerprint, likeness
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.scans import Volume, read_scan

GROUPS = {  # folder, files, and the fixed spacing in mm
    "whole head CT": ("head_ct/scans", "*.nii.gz", (3, 2, 2)),
    "whole brain MR": ("brain_mr/scans", "*flair*", (3, 2, 2)),
    "trunk and limb CT": ("sts_ct", "*.nii.gz", (3, 2, 2)),
    "CT crops around nodules": ("lidc_nodules/scans", "*.nii.gz", (1, 0.7, 0.7)),
    "the same crops in a field far too large": ("lidc_nodules/scans", "*.nii.gz", (3, 2, 2)),
}
COPIED = 24  # scans per group of which copies are made


def looks(modality: str, spacing_mm: tuple[float, float, float]) -> dict[str, PreprocessingConfig]:
    common = {"shape": (32, 64, 64)} | ({"normalisation": "zscore"} if modality == "MR" else {})
    return {
        "whole": PreprocessingConfig.model_validate(common),
        "fixed": PreprocessingConfig.model_validate(common | {"spacing_mm": spacing_mm}),
    }


def copies(scan: Volume, rng: np.random.Generator) -> Iterator[tuple[str, Volume]]:
    """Each kind of copy; ``soft``, ``sharp`` and ``thick`` mimic other reconstructions of the same acquisition."""
    voxels, depth = scan.voxels.astype(np.float32), len(scan.voxels)
    yield "first slice off", _with(scan, voxels[1:], first=1)
    yield "last slice off", _with(scan, voxels[:-1])
    yield "plus 1", _with(scan, voxels + 1)
    yield "soft", _with(scan, ndimage.gaussian_filter(voxels, (0, 0.8, 0.8)))
    edges = voxels - ndimage.gaussian_filter(voxels, (0, 1, 1))
    yield "sharp", _with(scan, voxels + edges + rng.normal(0, 0.02 * np.ptp(voxels) / 2, voxels.shape))
    pairs = voxels[: depth // 2 * 2].reshape(depth // 2, 2, *voxels.shape[1:]).mean(axis=1)
    yield "thick", _with(scan, pairs, first=0.5, step=2)
    height, width = (n // 20 for n in voxels.shape[1:])
    yield "smaller field", _with(scan, voxels[:, height:-height, width:-width], corner=(width, height))


def _with(scan: Volume, voxels: NDArray, first: float = 0, step: int = 1, corner: tuple[int, int] = (0, 0)) -> Volume:
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [*corner, first]
    affine[:3, 2] *= step
    return replace(scan, voxels=voxels.astype(np.float32), affine=affine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=GROUPS)
    asked, data = parser.parse_args(), Path(os.environ["MED_TRANSFER_DATA"])
    for group, (folder, pattern, spacing_mm) in ((group, GROUPS[group]) for group in asked.groups):
        paths = sorted((data / folder).glob(pattern))
        for look, config in looks("MR" if "MR" in group else "CT", spacing_mm).items():
            print(row(f"{group}, {look}", paths, Preprocessing(config)), flush=True)


def row(name: str, paths: list[Path], see: Preprocessing) -> str:
    rng, seen, altered = np.random.default_rng(0), [], []
    for number, path in enumerate(paths):
        scan = read_scan(path)
        seen.append(fingerprint(see(scan).numpy()))
        if number % max(1, len(paths) // COPIED) == 0:
            altered += [(kind, number, fingerprint(see(copy).numpy())) for kind, copy in copies(scan, rng)]
    originals = np.array(seen)
    patients = np.array([path.name.split("_")[0] if "LIDC" in path.name else path.name for path in paths])
    others = likeness(originals)[patients[:, None] != patients]
    found: dict[str, list[float]] = {}
    for kind, number, copy in altered:
        found.setdefault(kind, []).append(float(likeness(np.vstack([originals, copy]))[-1, number]))
    cells = (f"{min(alike):.3f} ({np.mean(np.array(alike) > COPY_CORRELATION):.0%})" for alike in found.values())
    alarms = int((others > COPY_CORRELATION).sum() / 2)
    return f"| {name} | {len(set(patients))} | {others.max():.3f} ({alarms}) | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
