"""A heat map on the network's input grid, and the interface of the methods that compute one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from med_transfer.backbones.encoder import Box
from med_transfer.model.ensemble import Ensemble

Triple = tuple[int, int, int]
_ROUNDING = 1e-5  # relative differences below this are not differences


@dataclass(frozen=True)
class HeatMap:
    """Relevance of each input voxel for one class; one map for all channels.

    Attributes:
        values: float32 [depth, height, width] on the input grid, in the method's own unit. Positive values support the
            class, negative ones oppose it.
        element_voxels: resolution of the map, in input voxels along depth, height, width.
        stage: stage of the encoder whose feature maps were used; None if the method uses none.
    """

    values: NDArray[np.float32]
    element_voxels: tuple[float, float, float]
    stage: int | None = None

    @property
    def empty(self) -> bool:
        """Whether no voxel supports the class."""
        return not bool((self.values > 0).any())

    @property
    def uniform(self) -> bool:
        """Whether all voxels support the class equally, as those of a stage with one voxel do: it shows no place."""
        return not self.empty and float(np.ptp(self.values)) <= _ROUNDING * float(self.values.max())

    @property
    def peak(self) -> Triple:
        """Index (depth, height, width) of the voxel with the largest value, ignoring NaN.

        If many are equal, such as all voxels of a slice, it is the one nearest to their centre and not a corner.
        """
        peaks = np.argwhere(self.values == np.nanmax(self.values))
        depth, height, width = peaks[((peaks - peaks.mean(axis=0)) ** 2).sum(axis=1).argmin()]
        return int(depth), int(height), int(width)


class Method(Protocol):
    """A method that computes a map."""

    name: ClassVar[str]

    def __call__(self, ensemble: Ensemble, image: Tensor, class_index: int) -> HeatMap:
        """Return the map of one input.

        Args:
            ensemble: network in evaluation mode, on the image's device.
            image: preprocessed input [channel, depth, height, width].
            class_index: index of the class to explain.
        """
        ...


def fill_boxes(values: NDArray[np.floating], boxes: Sequence[Box], shape: Triple) -> NDArray[np.float64]:
    """Return [depth, height, width] with each box (slice or tile) filled with its value, averaged over overlaps.

    Args:
        values: [box].
        boxes: boxes that together cover the volume.
        shape: (depth, height, width).
    """
    summed, covered = np.zeros(shape), np.zeros(shape)
    for value, box in zip(values, boxes, strict=True):
        summed[box] += value
        covered[box] += 1
    return summed / covered


def extent(box: Box) -> tuple[float, float, float]:
    """Return the size of a box in voxels, along depth, height, width."""
    depth, height, width = (float(side.stop - side.start) for side in box)
    return depth, height, width
