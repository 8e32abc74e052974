"""A heat map on the network's input grid, and what every method that makes one looks like."""

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


@dataclass(frozen=True)
class HeatMap:
    """How much each voxel of one input counts for one class; a single map, however many channels the input has.

    Attributes:
        values: float32 [depth, height, width] of the input. In the method's own unit; what is above 0 speaks for the
            class, what is below 0 against it.
        element_voxels: size of the smallest thing the map can tell apart, in input voxels along depth, height, width.
        stage: of the encoder, whose feature maps were read; None where the method reads none.
    """

    values: NDArray[np.float32]
    element_voxels: tuple[float, float, float]
    stage: int | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing speaks for the class."""
        return not bool((self.values > 0).any())

    @property
    def peak(self) -> Triple:
        """Index (depth, height, width) of the voxel that speaks most for the class; NaN does not speak.

        Of many that do, as all of a slice, the one nearest to their middle: at a corner is nothing to be seen.
        """
        most = np.argwhere(self.values == np.nanmax(self.values))
        depth, height, width = most[((most - most.mean(axis=0)) ** 2).sum(axis=1).argmin()]
        return int(depth), int(height), int(width)


class Method(Protocol):
    """How a map is made."""

    name: ClassVar[str]

    def __call__(self, ensemble: Ensemble, image: Tensor, class_index: int) -> HeatMap:
        """The map of one input.

        Args:
            ensemble: in evaluation mode, on the image's device.
            image: [channel, depth, height, width], as the preprocessing gives it.
            class_index: of the class that is explained.
        """
        ...


def painted(values: NDArray[np.floating], boxes: Sequence[Box], shape: Triple) -> NDArray[np.float64]:
    """[depth, height, width] with each box, a slice or a tile, in its value, and the mean where boxes overlap."""
    summed, covered = np.zeros(shape), np.zeros(shape)
    for value, box in zip(values, boxes, strict=True):
        summed[box] += value
        covered[box] += 1
    return summed / covered


def extent(box: Box) -> tuple[float, float, float]:
    """Of a box in voxels, along depth, height, width."""
    depth, height, width = (float(side.stop - side.start) for side in box)
    return depth, height, width
