"""Find near-duplicate scans: one slice fewer, a shifted intensity scale, another reconstruction.

A perceptual hash of the network's input: the mean over slices on a coarse grid, minus its blur, so that noise,
sharpness and slice thickness do not matter, and minus the cohort's mean, so that the anatomy common to all scans does
not matter. docs/measured/near_duplicates.md reports how well it separates copies from other patients.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.transform import resize

from med_transfer.cohorts.splits import Split, sides

SIDE, BLUR = 32, 2.0  # grid cells along each side, and sigma of the blur in cells
COPY_CORRELATION = 0.88  # correlation above which scans count as copies; measured in docs/measured/near_duplicates.md


def fingerprint(tensor: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the hash [cell] of a network input [channel, depth, height, width], invariant to scale and offset."""
    projection = np.asarray(tensor, np.float64).mean(axis=(0, 1))
    coarse = np.asarray(resize(projection, (SIDE, SIDE), order=1, anti_aliasing=True, mode="edge"))
    return _normed((coarse - gaussian_filter(coarse, BLUR, mode="nearest")).ravel())


def likeness(fingerprints: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return pairwise correlations [scan, scan] of fingerprints [scan, cell], after subtracting their mean."""
    own = _normed(fingerprints - fingerprints.mean(axis=0))
    return own @ own.T


def near_duplicates(tensors: Sequence[NDArray[np.floating]], split: Split) -> list[tuple[int, int]]:
    """Return pairs of positions of near-duplicate scans on two sides of a split.

    Args:
        tensors: network inputs [channel, depth, height, width].
        split: positions in ``tensors``.
    """
    alike = likeness(np.stack([fingerprint(tensor) for tensor in tensors])) > COPY_CORRELATION
    across = np.zeros_like(alike)
    for _, _, here, there in sides(split):
        across[np.ix_(here, there)] = True
    pairs = np.argwhere(alike & (across | across.T))
    return [(int(first), int(second)) for first, second in pairs if first < second]


def _normed(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length > 1e-9, length, np.inf)
