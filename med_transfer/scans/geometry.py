"""Patient coordinates, axes and spacing: the only module that knows about conventions.

Points are in DICOM's patient coordinate system, **LPS**, in millimetres: x increases towards the patient's Left, y
towards Posterior, z towards Superior (DICOM PS3.3 C.7.6.2.1.1). NIfTI and MONAI use RAS, which differs in the sign of
x and y.

An array of voxels is ``[depth, height, width]`` = ``[k, j, i]``. An *affine* (4 x 4) maps the voxel index
``(i, j, k)`` = (column, row, slice), in that order, to LPS millimetres, as in DICOM equation C.7.6.2.1-1.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from med_transfer.errors import GeometryRejected

Affine = NDArray[np.float64]
Triple = tuple[int, int, int]
T = TypeVar("T")

_LPS_RAS = np.array([[-1.0], [-1.0], [1.0], [1.0]])
_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))  # negative and positive end of each LPS axis


def swap_lps_ras(affine: Affine) -> Affine:
    """The same affine with its world axes changed from LPS to RAS, or back."""
    return _LPS_RAS * np.asarray(affine, dtype=np.float64) + 0.0  # turns -0.0 into 0.0


def spacing_mm(affine: Affine) -> tuple[float, float, float]:
    """Distance in mm between neighbouring voxels along (i, j, k): column, row, slice."""
    column, row, slice_ = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    return float(column), float(row), float(slice_)


def shear_degrees(affine: Affine) -> float:
    """Largest deviation of the angles between voxel axes from 90 degrees (non-zero for a tilted gantry)."""
    axes = np.asarray(affine)[:3, :3] / spacing_mm(affine)
    cosines = [abs(axes[:, a] @ axes[:, b]) for a, b in itertools.combinations(range(3), 2)]
    return float(np.degrees(np.arcsin(min(1.0, max(cosines)))))


def normal(affine: Affine) -> NDArray[np.float64]:
    """Unit normal of the slices in LPS, in the direction of i x j, which need not be that of increasing k."""
    across = np.cross(np.asarray(affine)[:3, 0], np.asarray(affine)[:3, 1])
    return across / np.linalg.norm(across)


def plane(affine: Affine) -> str:
    """The plane within 20 degrees of the slices: axial, coronal or sagittal; else oblique."""
    along = np.abs(normal(affine))
    axis = int(along.argmax())
    near = along[axis] >= np.cos(np.radians(20))
    return ("sagittal", "coronal", "axial")[axis] if near else "oblique"


def orientation(affine: Affine) -> str:
    """Three letters for the directions in which i, j and k increase, for example ``LPS`` for plain axial CT.

    Raises:
        GeometryRejected: the affine is singular or not finite.
    """
    axes = np.asarray(affine, dtype=np.float64)[:3, :3]
    if not np.isfinite(axes).all() or abs(np.linalg.det(axes)) < 1e-9:
        raise GeometryRejected("voxel axes do not span space", expected="an affine that can be inverted")
    axes = axes / np.linalg.norm(axes, axis=0)
    best = max(itertools.permutations(range(3)), key=lambda order: sum(abs(axes[order[c], c]) for c in range(3)))
    return "".join(_LETTERS[best[c]][int(axes[best[c], c] > 0)] for c in range(3))


def world_axes(letters: str) -> list[int]:
    """The LPS axis (0, 1 or 2) of each letter of an orientation; -1 for any other letter."""
    return [next((axis for axis in range(3) if letter in _LETTERS[axis]), -1) for letter in letters]


def reordered(by_axis: Sequence[T], source: str, target: str) -> tuple[T, T, T]:
    """Values, one for each array axis of orientation ``source``, in the order of the array axes of ``target``."""
    axes = world_axes(source)
    depth, height, width = (by_axis[axes.index(axis)] for axis in world_axes(target))
    return depth, height, width


def to_world_mm(affine: Affine, index_ijk: ArrayLike) -> NDArray[np.float64]:
    """Map voxel indices (i, j, k) to LPS mm; both have shape [..., 3]."""
    affine = np.asarray(affine, dtype=np.float64)
    return np.asarray(index_ijk, dtype=np.float64) @ affine[:3, :3].T + affine[:3, 3]


def to_index(affine: Affine, world_mm: ArrayLike) -> NDArray[np.float64]:
    """Map points in LPS mm to fractional voxel indices (i, j, k); both have shape [..., 3]."""
    inverse = np.linalg.inv(np.asarray(affine, dtype=np.float64)).astype(np.float64)
    return to_world_mm(inverse, world_mm)


def centre_mm(affine: Affine, shape_kji: tuple[int, int, int]) -> NDArray[np.float64]:
    """Centre in LPS mm, shape [3], of an array of shape [depth, height, width]."""
    return to_world_mm(affine, (np.array(shape_kji[::-1]) - 1) / 2)


def lattice(shape_kji: Sequence[int], max_points: int) -> NDArray[np.float64]:
    """Indices (i, j, k) evenly spaced over an array [depth, height, width], shape [n, 3].

    At most ``max_points`` along an axis; 2 give the outermost voxels.
    """
    axes = [np.linspace(0, size - 1, min(size, max_points)) for size in reversed(shape_kji)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def inside(affine: Affine, shape_kji: Sequence[int], world_mm: ArrayLike) -> NDArray[np.bool_]:
    """Whether points in LPS mm, shape [..., 3], lie in an array [depth, height, width]; the result has shape [...]."""
    index = to_index(affine, world_mm)
    return np.asarray(((index >= -0.5) & (index <= np.array(shape_kji[::-1]) - 0.5)).all(axis=-1))


def covering(index: NDArray[np.float64], shape: Sequence[int]) -> tuple[NDArray, NDArray]:
    """First index, and the one after the last, of the block of an array that covers points, each of shape [axes].

    They are equal along an axis if the points lie outside the array.

    Args:
        index: fractional indices of the points, shape [n, axes].
        shape: of the array, in the same order of axes.
    """
    first = np.clip(np.floor(index.min(axis=0)), 0, shape).astype(int)
    return first, np.clip(np.ceil(index.max(axis=0)) + 1, first, shape).astype(int)


def box_mm(
    affine: Affine, first_ijk: ArrayLike, last_ijk: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest corner in LPS mm of the bounding box of a block of voxels, their outer edges included.

    Args:
        affine: (i, j, k) to LPS mm.
        first_ijk, last_ijk: the block's first and last voxel.
    """
    ends = np.array([np.asarray(first_ijk) - 0.5, np.asarray(last_ijk) + 0.5]).T
    corners = to_world_mm(affine, list(itertools.product(*ends)))
    return corners.min(axis=0), corners.max(axis=0)


def from_array_affine_ras(affine: Affine) -> Affine:
    """Convert MONAI's affine, array index (k, j, i) to RAS mm, to one of (i, j, k) to LPS mm."""
    return swap_lps_ras(np.asarray(affine, dtype=np.float64)[:, [2, 1, 0, 3]])


def grid_affine(
    axes: str, spacing: tuple[float, float, float], centre: ArrayLike, shape: tuple[int, int, int]
) -> Affine:
    """Affine of an axis-aligned grid: (i, j, k) to LPS mm.

    Args:
        axes: directions in which the *array* axes (k, j, i) increase, for example ``SPL``.
        spacing: mm along the array axes (depth, height, width).
        centre: centre of the grid in LPS mm.
        shape: voxels along (depth, height, width).
    """
    affine = np.eye(4)
    affine[:3, :3] = 0.0
    for array_axis, letter in enumerate(axes):
        world_axis = world_axes(letter)[0]
        sign = 1.0 if letter == _LETTERS[world_axis][1] else -1.0
        affine[world_axis, 2 - array_axis] = sign * spacing[array_axis]
    middle = (np.array(shape[::-1]) - 1) / 2
    affine[:3, 3] = np.asarray(centre, dtype=np.float64) - affine[:3, :3] @ middle
    return affine


def canonical(voxels: NDArray, affine: Affine) -> tuple[NDArray, Affine]:
    """Flip and permute the axes so that the orientation is ``LPS``; voxel values do not change.

    Two files of one scan that store the axes differently (DICOM and NIfTI, say) become equal arrays.
    """
    letters = orientation(affine)
    order_ijk = [next(a for a in range(3) if letters[a] in pair) for pair in _LETTERS]  # which axis runs along x, y, z
    axes_kji = [2 - order_ijk[2], 2 - order_ijk[1], 2 - order_ijk[0]]
    voxels = voxels.transpose(axes_kji)
    affine = np.asarray(affine, dtype=np.float64)[:, [*order_ijk, 3]].copy()
    for axis in range(3):
        if letters[order_ijk[axis]] != _LETTERS[axis][1]:
            size = voxels.shape[2 - axis]
            affine[:3, 3] += affine[:3, axis] * (size - 1)
            affine[:3, axis] *= -1
            voxels = np.flip(voxels, 2 - axis)
    return voxels, affine


# Mapping between grids -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """A grid of voxels: affine (i, j, k) to LPS mm, and shape (depth, height, width)."""

    affine: Affine
    shape: Triple

    @property
    def voxel_mm(self) -> tuple[float, float, float]:
        """Voxel size in mm along depth, height, width."""
        width, height, depth = spacing_mm(self.affine)
        return depth, height, width


@dataclass(frozen=True)
class IndexMap:
    """Output index to input index, both in array order (k, j, i): ``input = matrix @ output + offset``."""

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]


def index_map(affine: Affine, grid: Grid) -> IndexMap:
    """Map from indices of the grid to indices of a scan with this affine."""
    composed = np.linalg.solve(affine, grid.affine).astype(np.float64)
    return IndexMap(composed[2::-1, 2::-1].copy(), composed[2::-1, 3].copy())


def voxel_ratio(affine: Affine, grid: Grid) -> NDArray[np.float64]:
    """Ratio of output to input voxel size along the input's array axes (k, j, i), at least 1; shape [3].

    If the grids are oblique to each other, an output voxel counts with its bounding box along the input's axes.
    """
    spacing, output_spacing = np.array(spacing_mm(affine)), np.array(spacing_mm(grid.affine))
    cosines = np.abs((affine[:3, :3] / spacing).T @ (grid.affine[:3, :3] / output_spacing))
    return np.maximum(cosines @ output_spacing / spacing, 1.0)[::-1]
