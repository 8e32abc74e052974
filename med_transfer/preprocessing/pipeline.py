"""Volume to network input: one resample onto one grid, then the window.

Orientation, spacing, crop, padding and shape are all statements about the output grid. So the grid is
worked out first, and the voxels are interpolated once (MONAI's ``SpatialResample``); nothing is resampled twice
and a region's centre is met to a fraction of a voxel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.intensity.array import ScaleIntensityRange
from monai.transforms.spatial.array import SpatialResample
from scipy import ndimage
from torch import Tensor

from med_transfer import geometry
from med_transfer.errors import UnusableVoxels
from med_transfer.preprocessing.config import PreprocessingConfig
from med_transfer.preprocessing.region import foreground, whole
from med_transfer.scans import Region, Volume

_WORLD_AXIS = {"R": 0, "L": 0, "A": 1, "P": 1, "I": 2, "S": 2}
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Grid:
    """An axis-aligned output grid: affine (i, j, k) to LPS mm, and voxels along depth, height, width."""

    affine: geometry.Affine
    shape: Triple


class Preprocessing:
    """Turns a Volume into a tensor [1, depth, height, width]; the same object in training and inference."""

    def __init__(self, config: PreprocessingConfig) -> None:
        self.config = config
        (low, high), (bottom, top) = config.window_hu, config.output_range
        self._resample = SpatialResample(
            mode="bilinear",
            padding_mode="border" if config.outside == "edge" else "zeros",
            align_corners=True,
            dtype=torch.float32,  # type: ignore[arg-type]  # MONAI takes torch types too
        )
        # voxels arrive with the window's floor at 0, so that padding with zeros is padding with the floor
        self._window = ScaleIntensityRange(0.0, high - low, bottom, top, clip=True)

    def grid(self, volume: Volume, region: Region | None = None, margin: Triple = (0, 0, 0)) -> Grid:
        """The output grid in the patient.

        Args:
            volume: the scan.
            region: where to look; needed when the config says ``roi``, ignored otherwise.
            margin: extra voxels on both sides of each axis; the inner voxels stay where they are.

        Raises:
            UnusableVoxels: the config asks for a region of interest and there is none, or it lies outside the scan.
        """
        region = self._region(volume, region)
        spacing = self.config.spacing_mm or self._fitted_spacing(region)
        depth, height, width = (n + 2 * m for n, m in zip(self.config.shape, margin, strict=True))
        shape = (depth, height, width)
        return Grid(geometry.grid_affine(self.config.orientation, spacing, region.centre_mm, shape), shape)

    def __call__(self, volume: Volume, region: Region | None = None, margin: Triple = (0, 0, 0)) -> Tensor:
        """Float tensor [1, depth, height, width], values in ``output_range``.

        Raises:
            UnusableVoxels: see :meth:`grid`.
        """
        grid = self.grid(volume, region, margin)
        voxels, affine = _cut_out(volume, grid)
        voxels = _anti_alias(voxels, affine, grid)
        floor = self.config.window_hu[0]
        image = MetaTensor(
            torch.from_numpy(voxels - floor)[None], affine=torch.from_numpy(geometry.array_affine_ras(affine))
        )
        resampled = self._resample(image, torch.from_numpy(geometry.array_affine_ras(grid.affine)), grid.shape)
        return self._window(resampled).as_tensor()  # type: ignore[union-attr]

    def _region(self, volume: Volume, region: Region | None) -> Region:
        if self.config.region == "whole":
            return whole(volume)
        if self.config.region == "foreground":
            return foreground(volume)
        if region is None:
            raise UnusableVoxels(
                "no region of interest",
                where=volume.provenance.path,
                expected="roi_x_mm, roi_y_mm, roi_z_mm or a mask, as in training",
                action="Add them to the table, or train with input.region: whole or foreground",
            )
        index = geometry.to_index(volume.affine, region.centre_mm)
        if (index < -0.5).any() or (index > np.array(volume.voxels.shape[::-1]) - 0.5).any():
            raise UnusableVoxels(
                f"region of interest at {tuple(round(x, 1) for x in region.centre_mm)} mm lies outside the scan",
                where=volume.provenance.path,
                expected="a point inside, in DICOM patient coordinates (LPS)",
                action="RAS coordinates (NIfTI, 3D Slicer) need the sign of x and y changed",
            )
        return region

    def _fitted_spacing(self, region: Region) -> tuple[float, float, float]:
        extent = [region.size_mm[_WORLD_AXIS[letter]] for letter in self.config.orientation]
        depth, height, width = (mm / n for mm, n in zip(extent, self.config.shape, strict=True))
        return depth, height, width


def _cut_out(volume: Volume, grid: Grid) -> tuple[np.ndarray, geometry.Affine]:
    """The part of the scan that the grid touches, as float32, with its affine: work grows with the output only."""
    steps = np.array([(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    corners = steps * (np.array(grid.shape[::-1]) - 1)
    index = geometry.to_index(volume.affine, geometry.to_world_mm(grid.affine, corners))
    size = np.array(volume.voxels.shape[::-1])
    reach = 3 * np.ceil(_voxel_ratio(volume.affine, grid)).astype(int)  # what the smoothing filter may touch
    first = np.clip(np.floor(index.min(axis=0)).astype(int) - reach, 0, size - 1)
    last = np.clip(np.ceil(index.max(axis=0)).astype(int) + reach, first, size - 1)
    (i0, j0, k0), (i1, j1, k1) = first, last + 1
    affine = np.array(volume.affine, dtype=np.float64)
    affine[:3, 3] = geometry.to_world_mm(affine, first)
    return volume.voxels[k0:k1, j0:j1, i0:i1].astype(np.float32), affine


def _voxel_ratio(affine: geometry.Affine, grid: Grid) -> np.ndarray:
    """Output voxel size over input voxel size, along the input's (i, j, k)."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    output = np.linalg.norm(grid.affine[:3, :3], axis=1)  # mm along x, y, z of an axis-aligned grid
    return np.maximum(np.abs(directions).T @ output / np.array(geometry.spacing_mm(affine)), 1.0)


def _anti_alias(voxels: np.ndarray, affine: geometry.Affine, grid: Grid) -> np.ndarray:
    """Gaussian low-pass where the output is coarser: sigma (ratio - 1) / 2 input voxels, as scikit-image's resize."""
    sigma_kji = (_voxel_ratio(affine, grid)[::-1] - 1) / 2
    if (sigma_kji < 0.1).all():
        return voxels
    return ndimage.gaussian_filter(voxels, sigma_kji, mode="nearest", truncate=3.0)
