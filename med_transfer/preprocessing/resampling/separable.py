"""Linear interpolation along single axes: the weights of each, and three passes over a volume, straight from int16.

An axis's interpolation and its anti-alias low-pass are one sparse matrix. The passes run in one thread.
The volume is taken slab by slab in the order of memory. A slab is small enough to stay in the processor's cache
while it becomes float32 and is resampled along its two axes; what is left is resampled across the slabs. So the input
is read once and never copied as a whole. Along the rows and across the slabs a pass is a sparse matrix times long
contiguous rows; along the columns, where neighbours lie side by side, it is a dense product of narrow bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

_TRUNCATE = 3.0  # the Gaussian ends at so many sigma
LEAST_SIGMA = 0.5 / _TRUNCATE  # below it, only the middle voxel is left, and nothing is smoothed
_TOGETHER = 8  # outputs across the slabs that are mixed at once, so that the reduced slabs stay in the cache
_BAND = 16  # outputs a dense band: wider wastes work on zeros, narrower on calls
# OpenBLAS keeps a product of at most 65536 * 4 multiplications in the calling thread. Its own threads wait by spinning,
# which starves the other workers of a data loader.
_ONE_THREAD = 65536 * 4


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


# The passes ---------------------------------------------------------------------------------------------------


def resample_axes(voxels: NDArray, axes: Sequence[AxisWeights], fill: float = 0.0) -> NDArray[np.float32]:
    """Apply one matrix along each of three axes.

    Args:
        voxels: [a, b, c], int16 or float32, in any memory layout, flipped views included.
        axes: the weights along a, b and c.
        fill: the value outside the scan, for weights that fall there.

    Returns:
        float32, [axes[0].size, axes[1].size, axes[2].size].
    """
    voxels = voxels[tuple(axis.touched for axis in axes)]
    order = _order(voxels, axes)
    slab, row, column = (axes[axis] for axis in order)
    reduction = _SlabReduction(voxels.transpose(order), row, column, fill)
    result = np.empty((slab.size, row.size, column.size), np.float32)
    if slab.picks_all:
        for index in range(slab.size):
            reduction(index, result[index])
    else:
        _mix(slab, reduction, result)
        _add_fill(result, slab.beyond[:, None, None], fill)
    return result.transpose(np.argsort(order))


def _order(voxels: NDArray, axes: Sequence[AxisWeights]) -> tuple[int, int, int]:
    """Axes of the slabs, the rows and the columns: columns contiguous, slabs along the axis that shrinks less."""
    first, second, column = sorted(range(3), key=lambda axis: -abs(voxels.strides[axis]))
    shrinks = [axes[axis].size / voxels.shape[axis] for axis in (first, second)]
    return (second, first, column) if shrinks[0] < shrinks[1] else (first, second, column)


@dataclass(frozen=True)
class _Band:
    outputs: slice
    taps: slice
    weights: NDArray[np.float32]  # [taps, outputs]


def _bands(axis: AxisWeights) -> list[_Band]:
    """The matrix cut into dense pieces of a few neighbouring outputs each."""
    bands, dense, weights = [], axis.weights.toarray(), axis.weights
    for start in range(0, axis.size, _BAND):
        outputs = slice(start, min(start + _BAND, axis.size))
        used = weights.indices[weights.indptr[outputs.start] : weights.indptr[outputs.stop]]
        taps = slice(int(used.min()), int(used.max()) + 1) if len(used) else slice(0, 0)
        bands.append(_Band(outputs, taps, np.ascontiguousarray(dense[outputs, taps].T)))
    return bands


class _SlabReduction:
    """One slab, [rows, columns], to [row.size, column.size]; holds what is the same for all slabs."""

    def __init__(self, voxels: NDArray, row: AxisWeights, column: AxisWeights, fill: float) -> None:
        self._voxels, self._row, self._column, self._fill = voxels, row, column, fill
        used, self._row_weights = row.part(slice(0, row.size))
        self._rows = used if len(used) < voxels.shape[1] else slice(None)  # without low-pass, many rows go unread
        self._scratch = np.empty((len(used), voxels.shape[2]), np.float32)
        self._bands = _bands(column)

    def __call__(self, index: int, out: NDArray[np.float32]) -> None:
        np.copyto(self._scratch, self._voxels[index][self._rows])
        rows = self._scratch if self._row.picks_all else self._row_weights @ self._scratch
        _add_fill(rows, self._row.beyond[:, None], self._fill)
        for band in self._bands:
            together = max(1, _ONE_THREAD // max(1, band.weights.size))
            for start in range(0, len(rows), together):
                part = slice(start, start + together)
                np.matmul(rows[part, band.taps], band.weights, out=out[part, band.outputs])
        _add_fill(out, self._column.beyond, self._fill)


def _mix(slab: AxisWeights, reduction: _SlabReduction, result: NDArray[np.float32]) -> None:
    """Resamples across the slabs, a few outputs at a time; a slab that the next outputs use too is reduced once."""
    plane_shape, reduced = result.shape[1:], {}
    for start in range(0, slab.size, _TOGETHER):
        outputs = slice(start, min(start + _TOGETHER, slab.size))
        used, weights = slab.part(outputs)
        stack = np.empty((len(used), *plane_shape), np.float32)
        for place, index in enumerate(used.tolist()):
            if index in reduced:
                stack[place] = reduced[index]
            else:
                reduction(index, stack[place])
        reduced = dict(zip(used.tolist(), stack, strict=True))
        mixed = weights @ stack.reshape(len(used), plane_shape[0] * plane_shape[1])
        result[outputs] = mixed.reshape(-1, *plane_shape)


def _add_fill(values: NDArray[np.float32], beyond: NDArray[np.float32], fill: float) -> None:
    if fill and beyond.any():
        values += np.float32(fill) * beyond
