"""Linear interpolation along one axis, with its anti-alias low-pass, as one sparse matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

_TRUNCATE = 3.0  # the Gaussian ends at so many sigma
LEAST_SIGMA = 0.5 / _TRUNCATE  # below it, only the middle voxel is left, and nothing is smoothed


@dataclass(frozen=True)
class AxisWeights:
    """What each output voxel takes from the input voxels along one axis.

    Attributes:
        touched: the range of input voxels that have any weight; the columns of ``weights``.
        weights: [output, touched], float32; a few neighbours a row.
        beyond: [output], float32: the weight that falls outside the scan, where the fill value is meant.
    """

    touched: slice
    weights: sparse.csr_array
    beyond: NDArray[np.float32]

    @property
    def size(self) -> int:
        """Output voxels."""
        return len(self.beyond)

    def part(self, outputs: slice) -> tuple[NDArray[np.integer], sparse.csr_array]:
        """The touched voxels that these outputs use, and the weights [outputs, used]."""
        weights = self.weights
        pointers = weights.indptr[outputs.start : outputs.stop + 1]
        within = slice(pointers[0], pointers[-1])
        used, columns = np.unique(weights.indices[within], return_inverse=True)
        shape = (len(pointers) - 1, len(used))
        return used, sparse.csr_array((weights.data[within], columns, pointers - pointers[0]), shape=shape)

    @property
    def picks_all(self) -> bool:
        """Whether the output is the touched voxels as they are."""
        touched = self.touched.stop - self.touched.start
        return self.size == touched == self.weights.nnz and bool((self.weights.diagonal() == 1).all())


def axis_weights(positions: NDArray[np.float64], size: int, sigma: float, *, clamp: bool) -> AxisWeights:
    """Weights of the input voxels 0 ... ``size - 1`` for linear interpolation of the low-passed axis.

    Args:
        positions: where the output voxels lie, in input voxels; may lie outside.
        size: input voxels along the axis.
        sigma: of the Gaussian low-pass, in input voxels; 0 for none. It repeats the axis's outermost voxels.
        clamp: a position outside takes the outermost voxel; otherwise its weight goes to ``beyond``.
    """
    if clamp:
        positions = np.clip(positions, 0, size - 1)
    lower = np.floor(positions).astype(np.int64)
    neighbours = lower[:, None] + np.array([0, 1])
    fraction = positions - lower
    linear = np.stack([1 - fraction, fraction], axis=1)
    inside = (neighbours >= 0) & (neighbours < size)
    if clamp:
        inside[:] = True  # the upper neighbour of the last voxel has no weight
    linear = np.where(inside, linear, 0.0)
    reach, kernel = _gaussian(sigma)
    taps = np.clip(neighbours[:, :, None] + reach, 0, size - 1)
    rows = np.broadcast_to(np.arange(len(positions))[:, None, None], taps.shape)
    values = linear[:, :, None] * kernel
    weighted = values > 0
    return _packed(values[weighted], rows[weighted], taps[weighted], 1 - linear.sum(axis=1))


def _gaussian(sigma: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Offsets and weights as in scipy.ndimage.gaussian_filter with ``truncate=3``."""
    radius = int(_TRUNCATE * sigma + 0.5)
    reach = np.arange(-radius, radius + 1)
    if radius == 0:
        return reach, np.ones(1)
    kernel = np.exp(-0.5 * (reach / sigma) ** 2)
    return reach, kernel / kernel.sum()


def _packed(values: NDArray, rows: NDArray, taps: NDArray, beyond: NDArray[np.float64]) -> AxisWeights:
    first, last = (int(taps.min()), int(taps.max())) if taps.size else (0, 0)
    shape = (len(beyond), last - first + 1)
    weights = sparse.csr_array((values, (rows, taps - first)), shape=shape)  # adds up repeated taps
    weights = sparse.csr_array(weights, dtype=np.float32)  # only now, so that the sums are exact
    return AxisWeights(slice(first, last + 1), weights, beyond.astype(np.float32))
