"""Patient coordinates, axes and spacing: the only place that knows about conventions.

Inside med_transfer a point is in DICOM's patient system, **LPS** in millimetres: x grows to the patient's
Left, y to the Posterior, z to the Superior (head) side (DICOM PS3.3 C.7.6.2.1.1). NIfTI and MONAI use
RAS, which differs by the sign of x and y.

An array of voxels is ``[depth, height, width]`` = ``[k, j, i]``. An *affine* maps the voxel index
``(i, j, k)`` = (column, row, slice), in that order, to LPS millimetres, like DICOM's own equation C.7.6.2.1-1.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from med_transfer.errors import GeometryRejected

Affine = NDArray[np.float64]
Triple = tuple[int, int, int]

_LPS_RAS = np.array([[-1.0], [-1.0], [1.0], [1.0]])
_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))  # negative and positive end of each LPS axis


def swap_lps_ras(affine: Affine) -> Affine:
    """The same affine with its world axes changed from LPS to RAS, or back."""
    return _LPS_RAS * np.asarray(affine, dtype=np.float64) + 0.0  # for -0


def spacing_mm(affine: Affine) -> tuple[float, float, float]:
    """Distance in mm between neighbouring voxels along (i, j, k): column, row, slice."""
    column, row, slice_ = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    return float(column), float(row), float(slice_)


def shear_degrees(affine: Affine) -> float:
    """Largest departure of the voxel axes from right angles, in degrees (a tilted gantry shows here)."""
    axes = np.asarray(affine)[:3, :3] / spacing_mm(affine)
    cosines = [abs(axes[:, a] @ axes[:, b]) for a, b in itertools.combinations(range(3), 2)]
    return float(np.degrees(np.arcsin(min(1.0, max(cosines)))))


def normal(affine: Affine) -> NDArray[np.float64]:
    """Unit vector across the slices, LPS; it shows to the side to which i x j turns, not where k grows."""
    across = np.cross(np.asarray(affine)[:3, 0], np.asarray(affine)[:3, 1])
    return across / np.linalg.norm(across)


def plane(affine: Affine) -> str:
    """axial, coronal or sagittal where the slices lie within 20 degrees of it, else oblique."""
    along = np.abs(normal(affine))
    axis = int(along.argmax())
    near = along[axis] >= np.cos(np.radians(20))
    return ("sagittal", "coronal", "axial")[axis] if near else "oblique"


def orientation(affine: Affine) -> str:
    """Three letters: the side to which i, j and k grow, for example ``LPS`` for plain axial CT.

    Raises:
        GeometryRejected: when the affine is singular.
    """
    axes = np.asarray(affine, dtype=np.float64)[:3, :3]
    if not np.isfinite(axes).all() or abs(np.linalg.det(axes)) < 1e-9:
        raise GeometryRejected("voxel axes do not span space", expected="an affine that can be inverted")
    axes = axes / np.linalg.norm(axes, axis=0)
    best = max(itertools.permutations(range(3)), key=lambda order: sum(abs(axes[order[c], c]) for c in range(3)))
    return "".join(_LETTERS[best[c]][int(axes[best[c], c] > 0)] for c in range(3))


def world_axes(letters: str) -> list[int]:
    """The LPS axis (0, 1 or 2) along which each letter of an orientation lies; -1 for a letter that is none."""
    return [next((axis for axis in range(3) if letter in _LETTERS[axis]), -1) for letter in letters]


def to_world_mm(affine: Affine, index_ijk: ArrayLike) -> NDArray[np.float64]:
    """LPS mm of voxel indices; ``index_ijk`` and the result have shape [..., 3]."""
    affine = np.asarray(affine, dtype=np.float64)
    return np.asarray(index_ijk, dtype=np.float64) @ affine[:3, :3].T + affine[:3, 3]


def to_index(affine: Affine, world_mm: ArrayLike) -> NDArray[np.float64]:
    """Voxel indices (i, j, k), fractional, of points in LPS mm; shapes [..., 3]."""
    inverse = np.linalg.inv(np.asarray(affine, dtype=np.float64)).astype(np.float64)
    return to_world_mm(inverse, world_mm)


def centre_mm(affine: Affine, shape_kji: tuple[int, int, int]) -> NDArray[np.float64]:
    """LPS mm of the middle of an array of shape [depth, height, width]."""
    return to_world_mm(affine, (np.array(shape_kji[::-1]) - 1) / 2)


def lattice(shape_kji: Sequence[int], most: int) -> NDArray[np.float64]:
    """Indices (i, j, k) spread evenly over an array [depth, height, width], at most so many along each axis; [n, 3]."""
    axes = [np.linspace(0, size - 1, min(size, most)) for size in reversed(shape_kji)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def inside(affine: Affine, shape_kji: Sequence[int], world_mm: ArrayLike) -> NDArray[np.bool_]:
    """Which points in LPS mm lie in a voxel of an array [depth, height, width]; shapes [..., 3] and [...]."""
    index = to_index(affine, world_mm)
    return np.asarray(((index >= -0.5) & (index <= np.array(shape_kji[::-1]) - 0.5)).all(axis=-1))


def box_mm(
    affine: Affine, first_ijk: ArrayLike, last_ijk: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and greatest LPS mm of the box of voxels between two opposite ones, their outer edges included."""
    ends = np.array([np.asarray(first_ijk) - 0.5, np.asarray(last_ijk) + 0.5]).T
    corners = to_world_mm(affine, list(itertools.product(*ends)))
    return corners.min(axis=0), corners.max(axis=0)


def from_array_affine_ras(affine: Affine) -> Affine:
    """(i, j, k) to LPS mm, of the affine that MONAI keeps: array index (k, j, i) to RAS mm."""
    return swap_lps_ras(np.asarray(affine, dtype=np.float64)[:, [2, 1, 0, 3]])


def grid_affine(
    axes: str, spacing: tuple[float, float, float], centre: ArrayLike, shape: tuple[int, int, int]
) -> Affine:
    """Affine of an axis-aligned grid: (i, j, k) to LPS mm.

    Args:
        axes: the side to which the *array* axes (k, j, i) grow, for example ``SPL``.
        spacing: mm along the array axes (depth, height, width).
        centre: LPS mm of the middle of the grid.
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
    """The same voxels with axes flipped and permuted so that orientation is ``LPS``; no value changes.

    Two files of one scan that store the axes differently (DICOM and its NIfTI twin) become equal arrays.
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


# Voxels of one array among those of another --------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """Voxels in space: affine (i, j, k) to LPS mm, and how many along depth, height, width."""

    affine: Affine
    shape: Triple

    @property
    def voxel_mm(self) -> tuple[float, float, float]:
        """Size of a voxel along depth, height, width."""
        width, height, depth = spacing_mm(self.affine)
        return depth, height, width


@dataclass(frozen=True)
class IndexMap:
    """Output index to input index, both in array order (k, j, i): ``input = matrix @ output + offset``."""

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]


def index_map(affine: Affine, grid: Grid) -> IndexMap:
    """Where the grid's voxels fall among the voxels of a scan with this affine."""
    composed = np.linalg.solve(affine, grid.affine).astype(np.float64)
    return IndexMap(composed[2::-1, 2::-1].copy(), composed[2::-1, 3].copy())


def voxel_ratio(affine: Affine, grid: Grid) -> NDArray[np.float64]:
    """Output voxel size over input voxel size along the input's array axes (k, j, i); at least 1.

    Where the axes are oblique to each other, an output voxel's size is that of its box along the input's axis.
    """
    spacing, output_spacing = np.array(spacing_mm(affine)), np.array(spacing_mm(grid.affine))
    cosines = np.abs((affine[:3, :3] / spacing).T @ (grid.affine[:3, :3] / output_spacing))
    return np.maximum(cosines @ output_spacing / spacing, 1.0)[::-1]
