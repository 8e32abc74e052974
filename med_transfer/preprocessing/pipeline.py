"""Convert a volume to network input: one resampling step onto one grid, then intensity scaling.

Orientation, spacing, crop, padding and shape all define the output grid. The grid is therefore computed first, and the
voxels are interpolated once (`resampling`), so that a region is centred to a fraction of a voxel. The first channel's
scan defines the grid; scans of other channels are resampled onto it by their own affines.

torch is imported only when a tensor is requested: without it, processes that only read scans start in less than half
the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import UnusableVoxels
from med_transfer.preprocessing.channels import Scans, require_columns, require_modality, require_same_place
from med_transfer.preprocessing.config import FIRST_CHANNEL, PreprocessingConfig
from med_transfer.preprocessing.organs import Organ
from med_transfer.preprocessing.region import isolated_organ, region_in_view
from med_transfer.preprocessing.resampling.resample import resample
from med_transfer.preprocessing.window import apply_window, window_of
from med_transfer.scans import Region, Volume, geometry
from med_transfer.scans.geometry import Grid, Triple

if TYPE_CHECKING:
    from torch import Tensor


class Preprocessing:
    """Converts the scans of a case to an array [channel, depth, height, width]; used in training and inference."""

    def __init__(self, config: PreprocessingConfig) -> None:
        """Prepare the channels of ``config``."""
        self.config = config
        self._channels = list(zip(config.column_of_channel, config.by_channel, strict=True))

    def grid(self, volume: Volume, region: Region | None = None, margin: Triple = (0, 0, 0)) -> Grid:
        """The output grid in patient coordinates.

        Args:
            volume: the first channel's scan.
            region: the region of interest; required for ``input.region: roi``, ignored otherwise.
            margin: extra voxels on both sides of each axis (depth, height, width); the inner grid does not move.

        Raises:
            UnusableVoxels: a required region of interest is missing or outside the scan, or it is to be fitted into
                the shape and has no size.
            OrganNotFound: the organ of the config was not found.
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
        """:meth:`image` as a tensor; same arguments and errors."""
        import torch

        return torch.from_numpy(self.image(scans, region, margin))

    def image(
        self, scans: Volume | Scans, region: Region | None = None, margin: Triple = (0, 0, 0)
    ) -> NDArray[np.float32]:
        """Network input [channel, depth, height, width], float32 rounded to float16, in ``output_range``.

        Training stores its tensors as float16; the rounding makes inference see bit-identical values.

        Args:
            scans: the scan; or the scans by column, if there are several channels.
            region: see :meth:`grid`.
            margin: see :meth:`grid`. The inner voxels are bit-identical to those without a margin.

        Raises:
            InputRejected: a scan is missing, of another modality, or not at the same place as the first.
            OrganNotFound: see :meth:`grid`.
            UnusableVoxels: see :meth:`grid`; or a scan without a foreground cannot be normalised to z-scores.
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
        organ = isolated_organ(volumes[FIRST_CHANNEL], self.config, region)
        images = [_on_grid(volumes[column], grid, channel, organ) for column, channel in self._channels]
        with np.errstate(over="ignore"):  # values beyond float16 become infinite
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
    """Resample one channel and apply its window; an isolated organ is masked first, so that nothing else blends in."""
    window = window_of(volume, config)
    outside = "edge" if config.outside == "edge" and organ is None else window[0]
    seen = volume if organ is None else organ.alone(volume, window[0])
    voxels = resample(seen.voxels, seen.affine, grid, outside=outside)
    apply_window(voxels, window, config.output_range)
    return voxels
