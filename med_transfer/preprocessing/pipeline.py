"""Volume to network input: one resample onto one grid, then the intensities.

Orientation, spacing, crop, padding and shape are all statements about the output grid. So the grid is
worked out first, and the voxels are interpolated once (`resampling`); nothing is resampled twice and a region's
centre is met to a fraction of a voxel.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from med_transfer import geometry
from med_transfer.errors import UnusableVoxels
from med_transfer.preprocessing.config import PreprocessingConfig
from med_transfer.preprocessing.grid import Grid, Triple
from med_transfer.preprocessing.modality import require_modality
from med_transfer.preprocessing.region import foreground, whole
from med_transfer.preprocessing.resampling import resample
from med_transfer.preprocessing.window import apply_window
from med_transfer.preprocessing.zscore import foreground_threshold, zscore_window
from med_transfer.scans import Region, Volume

_WORLD_AXIS = {"R": 0, "L": 0, "A": 1, "P": 1, "I": 2, "S": 2}


class Preprocessing:
    """Turns a Volume into a tensor [1, depth, height, width]; the same object in training and inference."""

    def __init__(self, config: PreprocessingConfig) -> None:
        self.config = config

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
            InputRejected: a scan of another modality.
            UnusableVoxels: see :meth:`grid`; or a scan without a foreground, where z-scores are asked for.
        """
        require_modality(volume, self.config.modality)
        grid, window = self.grid(volume, region, margin), self._window(volume)
        outside = "edge" if self.config.outside == "edge" else window[0]
        voxels = resample(volume.voxels, volume.affine, grid, outside=outside)
        apply_window(voxels, window, self.config.output_range)
        return torch.from_numpy(voxels)[None]

    def _window(self, volume: Volume) -> tuple[float, float]:
        if self.config.normalisation == "zscore":
            return zscore_window(volume, self.config.clip_sd)
        return self.config.window_hu

    def _region(self, volume: Volume, region: Region | None) -> Region:
        if self.config.region == "whole":
            return whole(volume)
        if self.config.region == "foreground":
            measured = self.config.normalisation == "zscore"
            return foreground(volume, foreground_threshold(volume)) if measured else foreground(volume)
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
