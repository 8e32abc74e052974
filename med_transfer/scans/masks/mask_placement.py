"""Resample a mask onto the voxel grid of its scan, and check that it lies within the scan."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from med_transfer.errors import GeometryRejected
from med_transfer.errors.sentence import Sentence
from med_transfer.scans import geometry
from med_transfer.scans.region import bounding_box
from med_transfer.scans.verdict import MAX_SHEAR_DEGREES
from med_transfer.scans.volume import Provenance, Volume

SAME_GRID_SHARE = 0.01  # of a voxel: largest distance between corners of equal grids, whose headers are rounded
_ROUNDING_VOXELS = 0.01
_SAME_CORNER = 0.05  # voxels, or mm across slices
_TIE_SHIFT = 1e-6  # voxels; keeps rounding errors from deciding points midway between two voxels


def onto_grid(parts: Iterable[Volume], grid: Volume) -> NDArray[np.bool_]:
    """Resample a mask, given as one or more volumes, onto another volume's voxels: bool, of that volume's shape.

    A voxel belongs to the mask if its centre lies in a voxel of the mask (nearest neighbour), as it belongs to a
    contour if its centre lies inside. Unlike the rule "at least half covered", this preserves the volume of thin
    regions on average. A mask on the same grid is unchanged. A single slice counts as at least as thick as the grid's
    slices, so that it is not lost between two. A mask too small to contain a centre marks the voxels that contain the
    centres of its own.

    Raises:
        GeometryRejected: the mask is outside the grid or extends beyond it, and how far; its position is unknown; or
            it places the scan's voxels elsewhere than the scan.
    """
    result = np.zeros(grid.voxels.shape, bool)
    present = [part for part in parts if part.voxels.any()]
    for part in present:
        if not _added_as_it_is(part, grid, result):
            _require_placed(part, grid)
            _require_true_place(part, grid)
            _require_voxels_inside(part, grid)
            _resample_into(result, part.voxels != 0, _thickened(part, grid), grid.affine)
    if not result.any():
        for part in present:
            middles = np.argwhere(part.voxels)[:, ::-1]
            mark_voxels(result, geometry.to_index(grid.affine, geometry.to_world_mm(part.affine, middles)))
    return result


def _added_as_it_is(mask: Volume, grid: Volume, result: NDArray[np.bool_]) -> bool:
    """Add a mask on the same grid, whatever the order of axes in each file; False for any other mask."""
    placed, grid_affine = geometry.canonical(result, grid.affine)  # a view into the result
    voxels, affine = geometry.canonical(mask.voxels, mask.affine)
    if voxels.shape != placed.shape:
        return False
    corners = geometry.lattice(voxels.shape, 2)
    off = geometry.to_index(grid_affine, geometry.to_world_mm(affine, corners)) - corners
    if np.abs(off).max() > SAME_GRID_SHARE:
        return False
    placed |= voxels != 0
    return True


def mark_voxels(result: NDArray[np.bool_], index_ijk: NDArray[np.float64]) -> None:
    """Set the voxels of ``result`` [depth, height, width] nearest to the points (i, j, k), shape [n, 3]."""
    kji = np.floor(index_ijk + 0.5 + _TIE_SHIFT).astype(int)[:, ::-1]
    result[tuple(np.clip(kji, 0, np.array(result.shape) - 1).T)] = True


def require_same_frame(mask: Provenance, scan: Provenance) -> None:
    """Raise GeometryRejected if both state a frame of reference and they differ (PS3.3 C.7.4.1)."""
    if mask.frame_of_reference and scan.frame_of_reference and mask.frame_of_reference != scan.frame_of_reference:
        raise GeometryRejected(
            "the mask has another frame of reference than the scan, so that positions cannot be compared",
            where=mask.path,
            expected="a mask drawn on this scan",
        )


def require_inside(points_mm: ArrayLike, allowance_voxels: ArrayLike, grid: Volume, where: Path) -> None:
    """Raise GeometryRejected if points lie farther beyond the grid's outer faces than allowed.

    Args:
        points_mm: points of the mask in LPS mm, shape [n, 3].
        allowance_voxels: allowed distance in voxels along (i, j, k) of the grid.
        grid: the scan.
        where: file of the mask.
    """
    index = geometry.to_index(grid.affine, points_mm)
    last = np.array(grid.voxels.shape[::-1]) - 0.5
    beyond = np.maximum(np.maximum(-0.5 - index, index - last), 0.0)
    if (beyond <= np.asarray(allowance_voxels) + _ROUNDING_VOXELS).all():
        return
    far_mm = np.linalg.norm(beyond * grid.spacing_mm, axis=1)
    apart = ((index < -0.5).all(axis=0) | (index > last).all(axis=0)).any()
    if apart:
        found = Sentence("the mask lies {mm:.1f} mm outside the scan", mm=far_mm.min())
    else:
        found = Sentence("the mask reaches {mm:.1f} mm beyond the scan", mm=far_mm.max())
    raise GeometryRejected(found, where=where, expected="a mask drawn on this scan")


def _require_placed(mask: Volume, grid: Volume) -> None:
    for volume, what in ((mask, Sentence("mask")), (grid, Sentence("scan"))):
        if not volume.verdict.placed:
            raise GeometryRejected(
                Sentence(
                    "the {what} does not say where its voxels lie in the patient, and the two grids differ", what=what
                ),
                where=mask.provenance.path,
                expected="a mask on the scan's own grid",
            )


def _require_true_place(mask: Volume, grid: Volume) -> None:
    if how := misplaced(mask, grid):
        raise GeometryRejected(
            Sentence("the mask {how}", how=how),
            where=mask.provenance.path,
            expected="a DICOM SEG or RTSTRUCT, which says where its slices lie, or a mask of the scan as it was read",
        )


def misplaced(volume: Volume, scan: Volume) -> str:
    """How a volume places the voxels of a scan elsewhere than the scan itself; empty if it does not.

    Some programs (SimpleITK, ITK-SNAP) take any series for a rectangular grid, or a NIfTI file's qform for its place,
    and write masks and images there. They lie millimetres beside the scan. A single slice, and a volume with a tilt of
    its own, say where they lie.
    """
    stored = scan.provenance.stored
    tilted = geometry.shear_degrees(volume.affine) > MAX_SHEAR_DEGREES / 2
    if stored is None or tilted or 1 in volume.voxels.shape or not _as_stored(volume, scan, stored):
        return ""
    if scan.provenance.format == "nifti":
        return Sentence("lies by the qform of a scan that lies by its sform")
    return Sentence("takes slices that are tilted or unevenly spaced for a rectangular grid")


def _as_stored(volume: Volume, scan: Volume, stored: geometry.Grid) -> bool:
    if geometry.shear_degrees(stored.affine) > MAX_SHEAR_DEGREES:
        return _continues_an_end(volume, stored, axes=2)
    of_the_scan_read = stored.shape != scan.voxels.shape and np.allclose(
        sorted(volume.spacing_mm), sorted(scan.spacing_mm), rtol=SAME_GRID_SHARE
    )
    same_number = sorted(volume.voxels.shape) == sorted(stored.shape)
    return same_number and not of_the_scan_read and _continues_an_end(volume, stored, axes=3)


def _continues_an_end(volume: Volume, stored: geometry.Grid, axes: int) -> bool:
    """Whether the corners of the first or last stored slice are corners of a volume.

    Args:
        volume: the volume.
        stored: grid of the stored slices.
        axes: 2 to compare only positions within the plane of the slice, so that slices may be left out at that end.
    """
    corners = geometry.to_world_mm(volume.affine, geometry.lattice(volume.voxels.shape, 2))
    depth, height, width = stored.shape
    for end in (0, depth - 1):
        upright = stored.affine.copy()
        upright[:3, 3] += end * stored.affine[:3, 2]
        upright[:3, 2] = geometry.normal(stored.affine)
        apart = geometry.lattice((1, height, width), 2)[:, None, :axes] - geometry.to_index(upright, corners)[:, :axes]
        if np.abs(apart).max(axis=2).min(axis=1).max() < _SAME_CORNER:
            return True
    return False


def _require_voxels_inside(mask: Volume, grid: Volume) -> None:
    """Refuse a mask with a voxel wholly outside the grid; only the first and last of each row are checked."""
    present = mask.voxels != 0
    rows = np.argwhere(present.any(axis=2))
    filled = present[tuple(rows.T)]
    first, last = filled.argmax(axis=1), filled.shape[1] - 1 - filled[:, ::-1].argmax(axis=1)
    ends = np.concatenate([np.column_stack([i, rows[:, ::-1]]) for i in (first, last)])
    voxel = np.abs(np.linalg.inv(grid.affine) @ mask.affine)[:3, :3].sum(axis=1)  # size in voxels of the grid
    require_inside(geometry.to_world_mm(mask.affine, ends), voxel / 2, grid, mask.provenance.path)


def _thickened(mask: Volume, grid: Volume) -> geometry.Affine:
    if len(mask.voxels) > 1:
        return mask.affine
    affine = mask.affine.copy()
    thickness = np.linalg.norm(affine[:3, 2])
    needed = np.abs(affine[:3, 2] @ grid.affine[:3, :3]).max() / thickness
    affine[:3, 2] *= max(1.0, needed / thickness)
    return affine


def _resample_into(
    result: NDArray[np.bool_], present: NDArray[np.bool_], affine: geometry.Affine, grid: geometry.Affine
) -> None:
    """Add the mask to ``result``; only the bounding box of its non-zero voxels is processed."""
    low, last = bounding_box(present)
    high = last + 1
    corners = np.array(list(np.ndindex(2, 2, 2))) * (high - low) + low - 0.5
    around = geometry.to_index(grid, geometry.to_world_mm(affine, corners[:, ::-1]))[:, ::-1]
    start, stop = geometry.covering(around, result.shape)
    if (stop == start).any():
        return
    to_mask = (np.linalg.inv(affine) @ grid)[[2, 1, 0, 3]][:, [2, 1, 0, 3]]  # array index (k, j, i) to array index
    offset = to_mask[:3, :3] @ start + to_mask[:3, 3] - low + _TIE_SHIFT
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    result[box] |= ndimage.affine_transform(
        present[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].view(np.uint8),
        to_mask[:3, :3],
        offset,  # pyright: ignore[reportArgumentType]  the stub allows only a number
        tuple(stop - start),
        order=0,
        mode="grid-constant",  # plain "constant" would cut half a voxel off the outer faces
        prefilter=False,
    ).astype(bool)
