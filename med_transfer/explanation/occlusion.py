"""Occlusion maps: a box slides over the input, and the class's probability drops where it hides the finding.

Source: Zeiler and Fergus 2014, Visualizing and Understanding Convolutional Networks, ECCV, section 4.2.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from med_transfer.errors import ConfigError
from med_transfer.explanation.heat import HeatMap, Triple
from med_transfer.model.ensemble import Ensemble
from med_transfer.model.features import in_parts
from med_transfer.progress import Progress, silent

_SHARE_OF_SIDE = 4  # the default window is a quarter of the shortest side
_BATCH = 16


@dataclass(frozen=True)
class Occlusion:
    """Drop of the ensemble's calibrated probability, in [-1, 1], when a box around a voxel is hidden.

    The drop is assigned to the centre of the box, and interpolated linearly between the sampled positions.

    Attributes:
        window, stride: size and step of the box, in voxels along depth, height, width.
        fill: value in the box, in the network's units (for CT the lower end of ``output_range`` is air or darker); None
            for the mean of the hidden voxels of each channel.
        progress: progress callback, called with the number of boxes done.
    """

    name: ClassVar[str] = "occlusion"
    window: Triple
    stride: Triple
    fill: float | None = None
    progress: Progress = field(default=silent, compare=False)

    @classmethod
    def in_mm(
        cls,
        shape: Triple,
        spacing_mm: tuple[float, float, float],
        window_mm: float | None = None,
        stride_mm: float | None = None,
        fill: float | None = None,
        progress: Progress = silent,
    ) -> Occlusion:
        """Return the method with a cube whose size is given in mm, rounded to voxels.

        Args:
            shape, spacing_mm: shape and spacing of the input, along depth, height, width.
            window_mm: edge of the cube; None for a quarter of the input's shortest side.
            stride_mm: step between positions; None for half the window.
            fill, progress: as in the class.

        Raises:
            ConfigError: the window is larger than the input, the stride is larger than the window, or either is not
                positive.
        """
        sides = [n * mm for n, mm in zip(shape, spacing_mm, strict=True)]
        window_mm = min(sides) / _SHARE_OF_SIDE if window_mm is None else window_mm
        stride_mm = window_mm / 2 if stride_mm is None else stride_mm
        if not 0 < window_mm <= min(sides):
            raise ConfigError(f"a window of {window_mm:g} mm", expected=f"above 0 and at most {min(sides):g} mm")
        if not 0 < stride_mm <= window_mm:
            raise ConfigError(f"a stride of {stride_mm:g} mm", expected=f"above 0 and at most {window_mm:g} mm")
        return cls(_voxels(window_mm, spacing_mm), _voxels(stride_mm, spacing_mm), fill, progress)

    @torch.inference_mode()
    def __call__(self, ensemble: Ensemble, image: Tensor, class_index: int) -> HeatMap:
        """Return the map; see :class:`~med_transfer.explanation.heat.Method`."""
        whole = ensemble(image[None])[0, class_index].item()
        shape = tuple(image.shape[1:])
        starts = [_starts(*along) for along in zip(shape, self.window, self.stride, strict=True)]
        corners = list(itertools.product(*starts))
        probabilities: list[float] = []
        for first in range(0, len(corners), _BATCH):
            hidden = torch.stack([self._hidden(image, corner) for corner in corners[first : first + _BATCH]])
            for part in in_parts(hidden, ensemble.fold_models[0].encoder):
                probabilities += ensemble(part)[:, class_index].tolist()
            self.progress("hiding boxes", len(probabilities), len(corners))
        drops = whole - np.array(probabilities).reshape([len(along) for along in starts])
        middles = [np.array(along) + (size - 1) / 2 for along, size in zip(starts, self.window, strict=True)]
        depth, height, width = self.stride
        return HeatMap(_between(drops, middles, shape), (float(depth), float(height), float(width)))

    def _hidden(self, image: Tensor, corner: Sequence[int]) -> Tensor:
        box = tuple(slice(start, start + size) for start, size in zip(corner, self.window, strict=True))
        image = image.clone()
        image[:, *box] = image[:, *box].mean(dim=(1, 2, 3), keepdim=True) if self.fill is None else self.fill
        return image


def _voxels(mm: float, spacing_mm: tuple[float, float, float]) -> Triple:
    depth, height, width = (max(1, round(mm / spacing)) for spacing in spacing_mm)
    return depth, height, width


def _starts(n: int, size: int, step: int) -> list[int]:
    """Start positions of the boxes along an axis; the last one ends at the input's edge."""
    last = max(0, n - size)
    return sorted({*range(0, last, step), last})


def _between(drops: NDArray[np.float64], middles: Sequence[NDArray], shape: Sequence[int]) -> NDArray[np.float32]:
    """Interpolate linearly between the boxes' centres, axis by axis; constant beyond the outermost ones."""
    for axis, (middle, n) in enumerate(zip(middles, shape, strict=True)):
        drops = np.apply_along_axis(lambda line, middle=middle, n=n: np.interp(np.arange(n), middle, line), axis, drops)
    return drops.astype(np.float32)
