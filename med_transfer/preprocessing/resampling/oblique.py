"""Linear interpolation with SimpleITK, for output axes that are oblique to those of the scan.

A grid point outside the scan takes the value of the nearest point of the scan's surface, or a fill value. The surface
is six faces. A point beyond a face takes its value from that face, by bilinear interpolation at its other two
coordinates, clamped to the face. As faces are small, this is much cheaper than padding the scan until it contains the
grid.
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
    """Interpolate at ``where.matrix @ index + where.offset`` for every index of ``shape``; float32 of that shape.

    Uses as many threads as torch in this process: one in data loader workers, and one if torch is not loaded.

    Args:
        voxels: [depth, height, width], int16 or float32.
        where: output index to input index, in array order; any invertible matrix, also a sheared one.
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
    """The map as ITK transform, x first; in voxel indices (spacing 1, origin 0), since ITK needs orthogonal axes."""
    transform = SimpleITK.AffineTransform(3)
    transform.SetMatrix(where.matrix[::-1, ::-1].ravel().tolist())
    transform.SetTranslation(where.offset[::-1].tolist())
    return transform


@dataclass(frozen=True)
class _Face:
    """The outermost voxels on one side; ``others`` are the two array axes within the face."""

    axis: int
    at: int  # index along the axis
    side: int  # -1 at the first voxel, 1 at the last
    others: tuple[int, int]
    values: Floats  # [rows, columns]


def _finish_outside(result: NDArray[np.float32], voxels: NDArray, where: IndexMap, fill: float | None) -> None:
    """Set, in place, the voxels of ``result`` beyond the centres of the scan's outermost voxels.

    Args:
        result: output [depth, height, width]; voxels outside already have the value ``fill``.
        voxels: the scan.
        where: output index to input index.
        fill: None repeats the outermost voxels; otherwise the scan fades to this value within one voxel, as in linear
            interpolation of a scan surrounded by it.
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
    at = [index[other] for other in face.others]  # "nearest" clamps to the face
    value = np.asarray(ndimage.map_coordinates(face.values, at, order=1, mode="nearest", output=np.float32), np.float32)
    if fill is None:
        return value
    weight = 1 - np.abs(index[face.axis] - face.at)
    for other in face.others:
        nearest = np.clip(index[other], 0, size[other] - 1)
        weight *= np.maximum(1 - np.abs(index[other] - nearest), 0)
    return (fill + (value - fill) * weight).astype(np.float32)
