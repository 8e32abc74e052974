"""Linear interpolation where the output's axes are oblique to the scan's, by SimpleITK.

What the grid finds outside the scan is the nearest point of the scan's surface, or a fill value. The surface is six
faces. A point beyond one of them takes its value from that face alone, by bilinear interpolation at its other two
coordinates, which are clamped to the face. A face is small, so that this is much cheaper than widening the scan on all
sides until it holds the grid.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from scipy import ndimage

from med_transfer.scans.geometry import IndexMap, Triple

Floats = NDArray[np.float64]


def resample_oblique(voxels: NDArray, where: IndexMap, shape: Triple, fill: float | None) -> NDArray[np.float32]:
    """Values at ``where.matrix @ index + where.offset`` for every index of ``shape``.

    As many threads as torch uses in this process: one in the workers of a data loader, and where it is not loaded.

    Args:
        voxels: [depth, height, width], int16 or float32.
        where: output index to input index, in array order; any invertible matrix, sheared ones too.
        shape: output voxels along depth, height, width.
        fill: value outside the scan; None repeats the outermost voxels.
    """
    resampler = SimpleITK.ResampleImageFilter()
    resampler.SetInterpolator(SimpleITK.sitkLinear)
    resampler.SetOutputPixelType(SimpleITK.sitkFloat32)
    resampler.SetNumberOfThreads(max(1, sys.modules["torch"].get_num_threads()) if "torch" in sys.modules else 1)
    resampler.SetDefaultPixelValue(fill or 0.0)
    resampler.SetSize([int(n) for n in shape[::-1]])
    resampler.SetTransform(_transform(where))
    result = SimpleITK.GetArrayFromImage(resampler.Execute(SimpleITK.GetImageFromArray(voxels)))
    _finish_outside(result, voxels, where, fill)
    return result


def _transform(where: IndexMap) -> SimpleITK.AffineTransform:
    """In voxel indices: with spacing 1 and origin 0 on both sides, ITK needs no orthogonal axes. ITK counts x first."""
    transform = SimpleITK.AffineTransform(3)
    transform.SetMatrix(where.matrix[::-1, ::-1].ravel().tolist())
    transform.SetTranslation(where.offset[::-1].tolist())
    return transform


@dataclass(frozen=True)
class _Face:
    """The outermost voxels on one side; ``others`` are the array axes that run along it."""

    axis: int
    at: int  # index along the axis
    side: int  # -1 at the first voxel, 1 at the last
    others: tuple[int, int]
    values: Floats  # [rows, columns]


def _finish_outside(result: NDArray[np.float32], voxels: NDArray, where: IndexMap, fill: float | None) -> None:
    """Sets, in place, what lies beyond the middles of the outermost voxels.

    Args:
        result: [depth, height, width] of the output; with ``fill``, it already holds that further out.
        voxels: the scan.
        where: output index to input index.
        fill: None repeats the outermost voxels; with a value, the scan fades to it within one voxel, as linear
            interpolation does when the value lies all around.
    """
    _, height, width = result.shape
    rows, columns = np.arange(height)[:, None], np.arange(width)
    in_plane = [(down * rows + right * columns).ravel() for _, down, right in where.matrix]
    faces = _faces(voxels)
    for number, plane in enumerate(result.reshape(len(result), -1)):
        start = where.matrix[:, 0] * number + where.offset
        done = np.zeros(plane.size, bool)
        for face in faces:
            beyond = _beyond(face, in_plane[face.axis], start[face.axis], within=np.inf if fill is None else 1.0)
            points = np.flatnonzero(beyond & ~done)
            if points.size:
                done |= beyond
                axes = face.others if fill is None else range(3)
                index = {axis: in_plane[axis][points] + start[axis] for axis in axes}
                plane[points] = _values(face, index, voxels.shape, fill)


def _faces(voxels: NDArray) -> list[_Face]:
    faces = []
    for axis, size in enumerate(voxels.shape):
        first, second = (other for other in range(3) if other != axis)
        for at, side in ((0, -1), (size - 1, 1)):
            values = np.moveaxis(voxels, axis, 0)[at].astype(np.float64)
            faces.append(_Face(axis, at, side, (first, second), values))
    return faces


def _beyond(face: _Face, along: Floats, start: float, within: float) -> NDArray[np.bool_]:
    edge = face.at - start
    beyond = along < edge if face.side < 0 else along > edge
    if np.isfinite(within) and beyond.any():
        beyond &= np.abs(along - edge) < within
    return beyond


def _values(face: _Face, index: dict[int, Floats], size: Triple, fill: float | None) -> NDArray[np.float32]:
    at = [index[other] for other in face.others]  # beyond the face's edge its nearest point
    value = np.asarray(ndimage.map_coordinates(face.values, at, order=1, mode="nearest", output=np.float32), np.float32)
    if fill is None:
        return value
    weight = 1 - np.abs(index[face.axis] - face.at)
    for other in face.others:
        nearest = np.clip(index[other], 0, size[other] - 1)
        weight *= np.maximum(1 - np.abs(index[other] - nearest), 0)
    return (fill + (value - fill) * weight).astype(np.float32)
