"""Separable linear interpolation: the weights along each axis, and three passes over a volume, directly from int16.

Interpolation and anti-aliasing low-pass along an axis are one sparse matrix. The passes run in one thread. The volume
is processed slab by slab in memory order. A slab fits into the CPU cache while it is converted to float32 and resampled
along its two axes; the results are then resampled across slabs. The input is thus read once and never copied as a
whole. Along rows and across slabs, a pass multiplies a sparse matrix by long contiguous rows; along columns, where
neighbours are adjacent in memory, it multiplies narrow dense bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

_TRUNCATE = 3.0  # radius of the Gaussian in sigma
MIN_SIGMA = 0.5 / _TRUNCATE  # below it, the kernel is a single voxel and smooths nothing
_OUTPUTS_PER_BLOCK = 8  # outputs across slabs computed at once, so that the reduced slabs stay in the cache
_BAND = 16  # outputs per dense band; wider ones waste work on zeros, narrower ones on calls
# OpenBLAS runs a product of at most 65536 * 4 multiplications in the calling thread. Its own threads busy-wait, which
# starves the other workers of a data loader.
_ONE_THREAD = 65536 * 4


@dataclass(frozen=True)
class AxisWeights:
    """Weights of the input voxels in each output voxel along one axis.

    Attributes:
        touched: range of input voxels with any weight; the columns of ``weights``.
        weights: [output, touched], sparse, float32.
        beyond: [output], float32: weight outside the scan, to be given to the fill value.
    """

    touched: slice
    weights: sparse.csr_array
    beyond: NDArray[np.float32]

    @property
    def size(self) -> int:
        """Number of output voxels."""
        return len(self.beyond)

    def part(self, outputs: slice) -> tuple[NDArray[np.integer], sparse.csr_array]:
        """Indices of the touched voxels that some outputs use, and the weights [outputs, used]."""
        weights = self.weights
        pointers = weights.indptr[outputs.start : outputs.stop + 1]
        within = slice(pointers[0], pointers[-1])
        used, columns = np.unique(weights.indices[within], return_inverse=True)
        shape = (len(pointers) - 1, len(used))
        return used, sparse.csr_array((weights.data[within], columns, pointers - pointers[0]), shape=shape)

    @property
    def picks_all(self) -> bool:
        """Whether the output equals the touched voxels."""
        touched = self.touched.stop - self.touched.start
        return self.size == touched == self.weights.nnz and bool((self.weights.diagonal() == 1).all())


def axis_weights(positions: NDArray[np.float64], size: int, sigma: float, *, clamp: bool) -> AxisWeights:
    """Weights of the input voxels 0 ... ``size - 1`` for linear interpolation after a low-pass along the axis.

    Args:
        positions: of the output voxels, in input voxels; may be outside the scan.
        size: number of input voxels along the axis.
        sigma: of the Gaussian low-pass, in input voxels; 0 for none. The outermost voxels are repeated for it.
        clamp: positions outside take the outermost voxel; otherwise their weight goes to ``beyond``.
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
    """Offsets and weights of the kernel of scipy.ndimage.gaussian_filter with ``truncate=3``."""
    radius = int(_TRUNCATE * sigma + 0.5)
    reach = np.arange(-radius, radius + 1)
    if radius == 0:
        return reach, np.ones(1)
    kernel = np.exp(-0.5 * (reach / sigma) ** 2)
    return reach, kernel / kernel.sum()


def _packed(values: NDArray, rows: NDArray, taps: NDArray, beyond: NDArray[np.float64]) -> AxisWeights:
    first, last = (int(taps.min()), int(taps.max())) if taps.size else (0, 0)
    shape = (len(beyond), last - first + 1)
    weights = sparse.csr_array((values, (rows, taps - first)), shape=shape)  # sums repeated taps
    weights = sparse.csr_array(weights, dtype=np.float32)  # only now, so that sums are in double precision
    return AxisWeights(slice(first, last + 1), weights, beyond.astype(np.float32))


# The passes ---------------------------------------------------------------------------------------------------


def resample_axes(voxels: NDArray, axes: Sequence[AxisWeights], fill: float = 0.0) -> NDArray[np.float32]:
    """Apply one matrix along each of three axes.

    Args:
        voxels: [a, b, c], int16 or float32, in any memory layout, flipped views included.
        axes: the weights along a, b and c.
        fill: value outside the scan, for weights in ``beyond``.

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
        _resample_slabs(slab, reduction, result)
        _add_fill(result, slab.beyond[:, None, None], fill)
    return result.transpose(np.argsort(order))


def _order(voxels: NDArray, axes: Sequence[AxisWeights]) -> tuple[int, int, int]:
    """Axes of slabs, rows and columns: columns have the smallest stride, slabs are along the axis that shrinks less."""
    first, second, column = sorted(range(3), key=lambda axis: -abs(voxels.strides[axis]))
    shrinks = [axes[axis].size / voxels.shape[axis] for axis in (first, second)]
    return (second, first, column) if shrinks[0] < shrinks[1] else (first, second, column)


@dataclass(frozen=True)
class _Band:
    outputs: slice
    taps: slice
    weights: NDArray[np.float32]  # [taps, outputs]


def _bands(axis: AxisWeights) -> list[_Band]:
    """Cut the matrix into dense bands of a few neighbouring outputs each."""
    bands, dense, weights = [], axis.weights.toarray(), axis.weights
    for start in range(0, axis.size, _BAND):
        outputs = slice(start, min(start + _BAND, axis.size))
        used = weights.indices[weights.indptr[outputs.start] : weights.indptr[outputs.stop]]
        taps = slice(int(used.min()), int(used.max()) + 1) if len(used) else slice(0, 0)
        bands.append(_Band(outputs, taps, np.ascontiguousarray(dense[outputs, taps].T)))
    return bands


class _SlabReduction:
    """Resamples one slab from [rows, columns] to [row.size, column.size]; keeps what all slabs share."""

    def __init__(self, voxels: NDArray, row: AxisWeights, column: AxisWeights, fill: float) -> None:
        self._voxels, self._row, self._column, self._fill = voxels, row, column, fill
        used, self._row_weights = row.part(slice(0, row.size))
        self._rows = used if len(used) < voxels.shape[1] else slice(None)  # without low-pass, many rows are not needed
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


def _resample_slabs(slab: AxisWeights, reduction: _SlabReduction, result: NDArray[np.float32]) -> None:
    """Resample across the slabs, a few outputs at a time; slabs that the next outputs need, too, are kept."""
    plane_shape, reduced = result.shape[1:], {}
    for start in range(0, slab.size, _OUTPUTS_PER_BLOCK):
        outputs = slice(start, min(start + _OUTPUTS_PER_BLOCK, slab.size))
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
