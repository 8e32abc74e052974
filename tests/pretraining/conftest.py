from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from med_transfer.predictions.labels import Labels
from med_transfer.pretraining import SourceScan, SourceScans


def chest_voxels(seed: int) -> np.ndarray:
    """A body with two lungs crossed by vessels, int16 HU [24, 80, 80]."""
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.standard_normal((24, 80, 80)), 1.5)
    _, y, x = np.mgrid[:24, :80, :80]
    body = ((y - 40) / 34) ** 2 + ((x - 40) / 37) ** 2 < 1
    lungs = ((y - 40) / 22) ** 2 + ((np.abs(x - 40) - 17) / 13) ** 2 < 1
    hu = np.where(body, 30 + 900 * texture, -1000)
    hu = np.where(lungs, np.where(texture > 0.08, 20, -830 + 300 * texture), hu)
    return np.clip(hu, -1024, 1500).astype(np.int16)


@pytest.fixture(scope="session")
def chest() -> SourceScans:
    return SourceScans(tuple(SourceScan(chest_voxels(n), (3.0, 2.0, 2.0), f"{n:064x}") for n in range(3)))


@pytest.fixture(scope="session")
def labelled(chest: SourceScans) -> SourceScans:
    """Eight patients with a ball in the left lung, solid or ground glass, its mask and its centre."""
    scans = []
    for number in range(8):
        rng = np.random.default_rng(100 + number)
        centre = np.array([12, 40, 57]) + rng.integers(-4, 5, 3)
        ball = np.linalg.norm((np.mgrid[:24, :80, :80].T - centre) * (3, 2, 2), axis=-1).T < 12
        label = ("ground glass", "solid")[number % 2]
        voxels = np.where(ball, {"solid": 40, "ground glass": -550}[label], chest_voxels(number % 3)).astype(np.int16)
        scan = SourceScan(voxels, (3.0, 2.0, 2.0), f"{number:064x}", patient_hash=f"patient-{number}")
        mask = (255 * ball).astype(np.uint8)
        scans.append(replace(scan, mask=mask, centre=tuple(centre.tolist()), label=label))
    return SourceScans(tuple(scans), Labels(("ground glass", "solid")))
