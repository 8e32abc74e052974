"""CT of whole body parts with organs known by construction: a head with a brain, a chest with lungs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.phantoms.anatomy import ellipsoid, lung_distance
from med_transfer.phantoms.chest import paint_chest
from med_transfer.phantoms.grid import centred_grid
from med_transfer.phantoms.patient import draw_patient
from med_transfer.scans import Provenance, Volume, geometry

BRAIN_RADII = (66.0, 84.0, 64.0)
HEAD_MM = (-110.0, -115.0, -120.0), (110.0, 115.0, 100.0)
CHEST_SHAPE = (92, 84, 112)


def as_volume(voxels: NDArray, affine: NDArray, modality: str = "CT") -> Volume:
    return Volume(voxels, affine, Provenance(Path("scan"), "nifti", modality=modality))


def affine_of(spacing_ijk, linear=None) -> NDArray:
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if linear is None else linear) @ np.diag(spacing_ijk)
    return affine


@cache
def plain_head() -> Volume:
    """The same one each time, so that its organs are looked for once."""
    return head()


@cache
def plain_chest() -> Volume:
    """As :func:`plain_head`."""
    return chest()


def head(affine: NDArray | None = None, seed: int = 0, size: float = 1.0, open_skull: bool = False) -> Volume:
    """A head on a headrest, of voxels as ``affine`` says; ``open_skull``: half of the vault is soft."""
    affine = affine_of((2.0, 2.0, 3.0)) if affine is None else affine
    affine, (x, y, z) = _points(affine, *HEAD_MM)
    radii = np.array(BRAIN_RADII) * size
    edge = float(np.mean(geometry.spacing_mm(affine)))
    hu = np.full(x.shape, -1000.0, np.float32)

    def paint(distance: NDArray, value: float) -> None:
        nonlocal hu
        hu += np.clip(0.5 - distance / edge, 0, 1) * (value - hu)

    def grown(mm: float) -> NDArray:
        return ellipsoid(x, y, z, (0, 0, 0), tuple(radii + mm))

    below = z + 0.5 * radii[2]
    neck = np.maximum(np.hypot(x, y - 10) - 0.75 * radii[0], below)
    face = np.maximum(ellipsoid(x, y, z, (0, -50 * size, -70 * size), tuple(0.7 * radii)), below)
    paint(np.minimum(np.minimum(grown(13), neck), face), 20)
    paint(np.maximum(np.abs(np.hypot(x, y - 10) - 13) - 4, below + 20), 500)  # vertebrae about the canal
    paint(np.maximum(np.abs(y - 108) - 2, np.abs(x) - 60), -150)  # headrest
    is_open = open_skull & (np.arctan2(y, x) % (np.pi / 2) > np.pi / 4) & (z > -30)
    paint(np.where(is_open, 99.0, grown(7)), 700)
    paint(np.maximum(np.hypot(x, y - 10) - 12, z), 30)  # foramen magnum
    paint(grown(0), 33)
    paint(ellipsoid(x, y, z, (0, 0, 5), (15, 30, 12)), 6)  # ventricles
    paint(np.maximum(ellipsoid(x, y, z, (radii[0] - 5, 0, 0), (12, 30, 25)), grown(0)), 70)  # blood along the skull
    noise = 4 * np.random.default_rng(seed).standard_normal(hu.shape, np.float32)
    return as_volume(np.rint(hu + noise).astype(np.int16), affine)


def is_brain(points_mm: NDArray, size: float = 1.0) -> NDArray[np.bool_]:
    """Whether points [..., 3] lie in the brain of :func:`head`."""
    return ellipsoid(*np.moveaxis(points_mm, -1, 0), (0, 0, 0), tuple(np.array(BRAIN_RADII) * size)) < 0


def chest(seed: int = 0, pixel_mm: float = 3.0, slice_mm: float = 3.0, shape=CHEST_SHAPE, centre=(0, 0, 5)) -> Volume:
    """A chest on a table, from above the lungs to below them."""
    grid = centred_grid(shape, pixel_mm, slice_mm, np.array(centre, float))
    affine = geometry.grid_affine("SPL", (slice_mm, pixel_mm, pixel_mm), centre, shape)
    anatomy = draw_patient(seed, "texture", 0).anatomy
    return as_volume(np.rint(paint_chest(anatomy, grid, table=True)).astype(np.int16), affine)


def lung_mm(points_mm: NDArray, seed: int = 0) -> NDArray[np.float64]:
    """How far points [..., 3] lie outside the lungs of :func:`chest`; negative within."""
    return lung_distance(draw_patient(seed, "texture", 0).anatomy, *np.moveaxis(points_mm, -1, 0))


def voxel_points(volume: Volume) -> NDArray[np.float64]:
    """LPS mm of every voxel, [depth, height, width, 3]."""
    return np.stack(_points_of(volume.affine, volume.voxels.shape), axis=-1)


def _points_of(affine: NDArray, shape: tuple[int, ...]) -> list[NDArray]:
    k, j, i = np.indices(shape)
    return list(np.moveaxis(geometry.to_world_mm(affine, np.stack([i, j, k], axis=-1)).astype(np.float32), -1, 0))


def _points(affine: NDArray, low, high) -> tuple[NDArray, list[NDArray]]:
    """The affine moved, and the points of as many voxels, so that they cover the box from ``low`` to ``high``."""
    corners = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    box = np.array(low) + np.array(corners) * (np.array(high) - np.array(low))
    index = box @ np.linalg.inv(affine[:3, :3]).T
    first, last = np.floor(index.min(axis=0)), np.ceil(index.max(axis=0))
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ first
    shape = tuple(int(n) for n in (last - first + 1)[::-1])
    return moved, _points_of(moved, shape)
