"""Size and first-order intensity features of a scan: the baseline that a network has to beat.

The features describe the patient, not the file: flipping or permuting axes does not change them, nor does a finer grid
with the same content. Definitions follow the Image Biomarker Standardisation Initiative (Zwanenburg et al. 2020,
Radiology 295:328); kurtosis is excess kurtosis, sd the population standard deviation, and entropy uses bins of 25 HU.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from med_transfer.scans import Region, Volume, geometry

ENTROPY_BIN_HU = 25.0
PERCENTILES = (5, 25, 50, 75, 95)
SHARE_EDGES_HU = (-700.0, -300.0, 0.0, 100.0)
_SIZE_NAMES = ("volume_ml", "diameter_mm", "extent_min_mm", "extent_mid_mm", "extent_max_mm")
_SHARE_NAMES = (
    "share_below_minus700_hu",
    "share_minus700_to_minus300_hu",
    "share_minus300_to_0_hu",
    "share_0_to_100_hu",
    "share_above_100_hu",
)
FEATURE_NAMES: tuple[str, ...] = (
    *_SIZE_NAMES,
    *("mean_hu", "sd_hu", "skewness", "kurtosis", "entropy_bits"),
    *(f"p{q:02d}_hu" for q in PERCENTILES),
    *_SHARE_NAMES,
)


def features(volume: Volume, region: Region | None = None, mask: Volume | None = None) -> dict[str, float]:
    """Return the features named in ``FEATURE_NAMES``, NaN where undefined (empty mask, skewness of a constant).

    Args:
        volume: the scan, in HU.
        region: a box in LPS mm; its size gives the size features, the voxels inside it the intensities.
        mask: non-zero inside the finding, on any grid; takes precedence over ``region``.

    With neither, intensities and size are those of the whole volume, which suits a tight crop.
    """
    if mask is not None:
        sizes, values = _size_of_mask(mask), _values_in_mask(volume, mask)
    elif region is not None:
        sizes, values = _size(math.prod(region.size_mm), region.size_mm), _values_in_region(volume, region)
    else:
        extents = np.array(volume.spacing_mm) * volume.voxels.shape[::-1]
        sizes, values = _size(_voxel_mm3(volume) * volume.voxels.size, extents), volume.voxels.ravel()
    return dict(zip(FEATURE_NAMES, (*sizes, *_first_order(values.astype(np.float64))), strict=True))


def _size(volume_mm3: float, extents_mm: NDArray | tuple[float, ...]) -> tuple[float, ...]:
    """Volume in ml, diameter of the equivalent sphere in mm, and the three extents in mm in ascending order."""
    diameter = (6.0 * volume_mm3 / math.pi) ** (1 / 3)
    return (volume_mm3 / 1000.0, diameter, *sorted(float(mm) for mm in extents_mm))


def _size_of_mask(mask: Volume) -> tuple[float, ...]:
    present = np.argwhere(mask.voxels != 0)[:, ::-1]
    if not len(present):
        return (math.nan,) * len(_SIZE_NAMES)
    extents = (present.max(axis=0) - present.min(axis=0) + 1) * np.array(mask.spacing_mm)
    return _size(len(present) * _voxel_mm3(mask), extents)


def _voxel_mm3(volume: Volume) -> float:
    return float(abs(np.linalg.det(volume.affine[:3, :3])))


def _values_in_region(volume: Volume, region: Region) -> NDArray:
    half = np.array(region.size_mm) / 2
    centre = np.array(region.centre_mm)
    values, points = _box(volume, centre - half, centre + half)
    return values[(np.abs(points - centre) <= half + 1e-6).all(axis=1)]


def _values_in_mask(volume: Volume, mask: Volume) -> NDArray:
    """Values of the voxels whose centre lies in a non-zero voxel of the mask; the grids may differ."""
    present = np.argwhere(mask.voxels != 0)[:, ::-1]
    if not len(present):
        return volume.voxels[:0].ravel()
    values, points = _box(volume, *geometry.box_mm(mask.affine, present.min(axis=0), present.max(axis=0)))
    # The small shift breaks ties consistently, so that rounding does not assign a point midway between two voxels.
    index = np.floor(geometry.to_index(mask.affine, points) + 0.5 + 1e-6).astype(int)[:, ::-1]
    on_grid = ((index >= 0) & (index < mask.voxels.shape)).all(axis=1)
    return values[on_grid][mask.voxels[tuple(index[on_grid].T)] != 0]


def _box(volume: Volume, low_mm: NDArray, high_mm: NDArray) -> tuple[NDArray, NDArray]:
    """Values [n] and LPS coordinates in mm [n, 3] of the voxels covering a box, computed for these voxels only."""
    corners = geometry.to_index(volume.affine, np.array(list(itertools.product(*zip(low_mm, high_mm, strict=True)))))
    first, end = geometry.covering(corners, volume.voxels.shape[::-1])
    i, j, k = (np.arange(a, b) for a, b in zip(first, end, strict=True))
    index = np.stack(np.meshgrid(k, j, i, indexing="ij"), axis=-1).reshape(-1, 3)
    return volume.voxels[tuple(index.T)], geometry.to_world_mm(volume.affine, index[:, ::-1])


def _first_order(values: NDArray[np.float64]) -> tuple[float, ...]:
    if not values.size:
        return (math.nan,) * (len(FEATURE_NAMES) - len(_SIZE_NAMES))
    mean, sd = values.mean(), values.std()
    constant = values.min() == values.max()
    z = (values - mean) / (1.0 if constant else sd)
    skewness, kurtosis = (math.nan, math.nan) if constant else (np.mean(z**3), np.mean(z**4) - 3.0)
    _, counts = np.unique(np.floor(values / ENTROPY_BIN_HU), return_counts=True)
    shares = counts / values.size
    entropy = abs(float(np.sum(shares * np.log2(shares))))
    # Nearest rank returns the value of a voxel, and is unchanged when every voxel is repeated.
    percentiles = np.percentile(values, PERCENTILES, method="inverted_cdf")
    bins = np.bincount(np.digitize(values, SHARE_EDGES_HU), minlength=len(_SHARE_NAMES)) / values.size
    return tuple(float(value) for value in (mean, sd, skewness, kurtosis, entropy, *percentiles, *bins))
