"""Volume to network input: one resample onto one grid, then the intensities.

Orientation, spacing, crop, padding and shape are all statements about the output grid. So the grid is
worked out first, and the voxels are interpolated once (`resampling`); nothing is resampled twice and a region's
centre is met to a fraction of a voxel. The grid is worked out on the first channel's scan; those of the others are
brought to it by their own affines, just as the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from med_transfer.errors import InputRejected, UnusableVoxels
from med_transfer.preprocessing.alignment import require_same_place
from med_transfer.preprocessing.config import FIRST_CHANNEL, PreprocessingConfig
from med_transfer.preprocessing.modality import require_modality
from med_transfer.preprocessing.region import foreground, whole
from med_transfer.preprocessing.resampling.grid import Grid, Triple
from med_transfer.preprocessing.resampling.resample import resample
from med_transfer.preprocessing.window import apply_window
from med_transfer.preprocessing.zscore import foreground_threshold, zscore_window
from med_transfer.scans import Region, Volume, geometry

_WORLD_AXIS = {"R": 0, "L": 0, "A": 1, "P": 1, "I": 2, "S": 2}


Scans = Mapping[str, Volume]  # the scans of a case, by the column of the cohort table that names each


class Preprocessing:
    """Turns a case's scans into a tensor [channel, depth, height, width]; the same object in training and inference."""

    def __init__(self, config: PreprocessingConfig) -> None:
        self.config = config
        self._channels = config.by_channel

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

    def __call__(self, scans: Volume | Scans, region: Region | None = None, margin: Triple = (0, 0, 0)) -> Tensor:
        """Float tensor [channel, depth, height, width], values in ``output_range``.

        Args:
            scans: the scan; or of several channels each one's scan by its column.
            region, margin: see :meth:`grid`.

        Raises:
            InputRejected: a scan is missing, of another modality, or elsewhere in the patient than the first.
            UnusableVoxels: see :meth:`grid`; or a scan without a foreground, where z-scores are asked for.
        """
        volumes = {FIRST_CHANNEL: scans} if isinstance(scans, Volume) else scans
        first = volumes[FIRST_CHANNEL]
        _require_all(self.config.columns, volumes)
        for column, channel in zip(self.config.column_of_channel, self._channels, strict=True):
            require_modality(volumes[column], channel.modality)
        seen, grid = self.grid(first, region), self.grid(first, region, margin)
        for column in self.config.columns[1:]:
            require_same_place(first, volumes[column], seen, column)
        channels = zip(self.config.column_of_channel, self._channels, strict=True)
        return torch.from_numpy(np.stack([_on_grid(volumes[column], grid, channel) for column, channel in channels]))

    def _region(self, volume: Volume, region: Region | None) -> Region:
        if self.config.region == "whole":
            return whole(volume)
        if self.config.region == "foreground":
            measured = self._channels[0].normalisation == "zscore"
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


def _require_all(columns: Iterable[str], volumes: Scans) -> None:
    missing = [column for column in columns if column not in volumes]
    if missing:
        raise InputRejected(
            f"no scan for channel {', '.join(missing)}",
            where=volumes[FIRST_CHANNEL].provenance.path,
            expected="a scan in each of these columns of the table, as in training",
        )


def _on_grid(volume: Volume, grid: Grid, config: PreprocessingConfig) -> NDArray[np.float32]:
    """One channel: resampled once, then its own window."""
    window = config.window_hu if config.normalisation == "window" else zscore_window(volume, config.clip_sd)
    voxels = resample(volume.voxels, volume.affine, grid, outside="edge" if config.outside == "edge" else window[0])
    apply_window(voxels, window, config.output_range)
    return voxels
