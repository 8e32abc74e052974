"""Volume to network input: one resample onto one grid, then the intensities.

Orientation, spacing, crop, padding and shape are all statements about the output grid. So the grid is
worked out first, and the voxels are interpolated once (`resampling`); nothing is resampled twice and a region's
centre is met to a fraction of a voxel. The grid is worked out on the first channel's scan; those of the others are
brought to it by their own affines, just as the first.

torch is loaded when a tensor is asked for: processes that only read scans start in less than half the time without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import UnusableVoxels
from med_transfer.preprocessing.channels import Scans, require_columns, require_modality, require_same_place
from med_transfer.preprocessing.config import FIRST_CHANNEL, PreprocessingConfig
from med_transfer.preprocessing.organs import Organ
from med_transfer.preprocessing.region import region_in_view, seen_alone
from med_transfer.preprocessing.resampling.resample import resample
from med_transfer.preprocessing.window import apply_window, window_of
from med_transfer.scans import Region, Volume, geometry
from med_transfer.scans.geometry import Grid, Triple

if TYPE_CHECKING:
    from torch import Tensor


class Preprocessing:
    """Turns a case's scans into a tensor [channel, depth, height, width]; the same object in training and inference."""

    def __init__(self, config: PreprocessingConfig) -> None:
        """Prepare what ``config`` says of each channel."""
        self.config = config
        self._channels = list(zip(config.column_of_channel, config.by_channel, strict=True))

    def grid(self, volume: Volume, region: Region | None = None, margin: Triple = (0, 0, 0)) -> Grid:
        """The output grid in the patient.

        Args:
            volume: the scan.
            region: where to look; needed when the config says ``roi``, ignored otherwise.
            margin: extra voxels on both sides of each axis; the inner voxels stay where they are.

        Raises:
            UnusableVoxels: the config asks for a region of interest and there is none, it lies outside the scan, or
                it is to be fitted into the shape and has no size.
            OrganNotFound: the config asks for an organ that was not found.
        """
        region = region_in_view(volume, self.config, region)
        if not self.config.spacing_mm and min(region.size_mm) <= 0:
            raise UnusableVoxels(
                "region of interest without a size", where=volume.provenance.path, expected="sizes above 0 mm"
            )
        spacing = self.config.spacing_mm or self._fitted_spacing(region)
        depth, height, width = (n + 2 * m for n, m in zip(self.config.shape, margin, strict=True))
        shape = (depth, height, width)
        return Grid(geometry.grid_affine(self.config.orientation, spacing, region.centre_mm, shape), shape)

    def __call__(self, scans: Volume | Scans, region: Region | None = None, margin: Triple = (0, 0, 0)) -> Tensor:
        """:meth:`image` as a tensor, with the same arguments. Raises what it raises."""
        import torch

        return torch.from_numpy(self.image(scans, region, margin))

    def image(
        self, scans: Volume | Scans, region: Region | None = None, margin: Triple = (0, 0, 0)
    ) -> NDArray[np.float32]:
        """Array [channel, depth, height, width], values in ``output_range``, each one that float16 has.

        Training keeps its tensors in float16; what inference sees is the same to the bit.

        Args:
            scans: the scan; or of several channels each one's scan by its column.
            region: see :meth:`grid`.
            margin: see :meth:`grid`. The voxels within it are the same as without one, to the bit.

        Raises:
            InputRejected: a scan is missing, of another modality, or elsewhere in the patient than the first.
            OrganNotFound: see :meth:`grid`.
            UnusableVoxels: see :meth:`grid`; or a scan without a foreground, where z-scores are asked for.
        """
        volumes = {FIRST_CHANNEL: scans} if isinstance(scans, Volume) else scans
        first = volumes[FIRST_CHANNEL]
        require_columns(self.config.columns, volumes)
        for column, modality in dict.fromkeys((column, channel.modality) for column, channel in self._channels):
            require_modality(volumes[column], modality)
        in_view = self.grid(first, region)
        require_same_place(volumes, self.config.columns, in_view)
        image = self._on_grid(volumes, in_view, region)
        if not any(margin):
            return image
        wide = self._on_grid(volumes, self.grid(first, region, margin), region)
        wide[:, *(slice(m, m + n) for m, n in zip(margin, self.config.shape, strict=True))] = image
        return wide

    def _on_grid(self, volumes: Scans, grid: Grid, region: Region | None) -> NDArray[np.float32]:
        organ = seen_alone(volumes[FIRST_CHANNEL], self.config, region)
        images = [_on_grid(volumes[column], grid, channel, organ) for column, channel in self._channels]
        with np.errstate(over="ignore"):  # beyond float16 it is infinite
            return np.stack(images).astype(np.float16).astype(np.float32)

    def _fitted_spacing(self, region: Region) -> tuple[float, float, float]:
        extent = [region.size_mm[axis] for axis in geometry.world_axes(self.config.orientation)]
        depth, height, width = (mm / n for mm, n in zip(extent, self.config.shape, strict=True))
        in_plane = max(height, width)
        fitted = {
            "stretch": (depth, height, width),
            "proportional": (depth, in_plane, in_plane),
            "isotropic": (max(depth, in_plane),) * 3,
        }
        return fitted[self.config.fit]


def _on_grid(volume: Volume, grid: Grid, config: PreprocessingConfig, organ: Organ | None) -> NDArray[np.float32]:
    """One channel: resampled once, then its own window. Of an organ alone, nothing of what is beside it is mixed in."""
    window = window_of(volume, config)
    outside = "edge" if config.outside == "edge" and organ is None else window[0]
    seen = volume if organ is None else organ.alone(volume, window[0])
    voxels = resample(seen.voxels, seen.affine, grid, outside=outside)
    apply_window(voxels, window, config.output_range)
    return voxels
