"""Scans that look the same although they are not: one slice fewer, a shifted scale, another reconstruction.

A perceptual hash of what the network sees: the mean over slices on a coarse grid, less its blur, so that neither noise
nor sharpness nor thickness of the slices matters, and less the cohort's mean, so that it does not matter either that
all are heads. How well it tells copies from other patients is in docs/measured/near_duplicates.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.transform import resize

from med_transfer.cohorts.splits import Split, sides

SIDE, BLUR = 32, 2.0  # cells of the grid along each side, and sigma of the blur in cells
ALIKE = 0.88  # least correlation of copies; measured: docs/measured/near_duplicates.md


def fingerprint(tensor: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of a network's input [channel, depth, height, width]: [cell], without scale and offset."""
    projection = np.asarray(tensor, np.float64).mean(axis=(0, 1))
    coarse = np.asarray(resize(projection, (SIDE, SIDE), order=1, anti_aliasing=True, mode="edge"))
    return _normed((coarse - gaussian_filter(coarse, BLUR, mode="nearest")).ravel())


def likeness(fingerprints: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation of each two of [scan, cell], less what all have in common: [scan, scan]."""
    own = _normed(fingerprints - fingerprints.mean(axis=0))
    return own @ own.T


def near_duplicates(tensors: Sequence[NDArray[np.floating]], split: Split) -> list[tuple[int, int]]:
    """Pairs of scans on two sides of a split that are copies of one another, as far as the network can see."""
    alike = likeness(np.stack([fingerprint(tensor) for tensor in tensors])) > ALIKE
    across = np.zeros_like(alike)
    for _, _, here, there in sides(split):
        across[np.ix_(here, there)] = True
    pairs = np.argwhere(alike & (across | across.T))
    return [(int(first), int(second)) for first, second in pairs if first < second]


def _normed(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length > 1e-9, length, np.inf)
