"""Paint a chest in Hounsfield units: air, table, soft tissue, lungs, vessels and bones, from outside to inside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from med_transfer.phantoms.anatomy import (
    AIR_HU,
    FAT_HU,
    MUSCLE_HU,
    Anatomy,
    cage_distance,
    cage_narrowing,
    dome_distance,
    ellipsoid,
    lung_distance,
    superellipse,
)
from med_transfer.phantoms.grid import Grid
from med_transfer.phantoms.tubes import paint_tubes

Volume = NDArray[np.float32]

_SLAB_VOXELS = 6_000_000  # limits the memory of a 512 x 512 x 300 phantom
_MOTTLE_STEP_MM = 9.0
_MOTTLE_HU = 22.0


def paint_chest(anatomy: Anatomy, grid: Grid, *, table: bool) -> Volume:
    """Return the chest as a perfect scanner would image it: float32 HU [depth, height, width], edges one voxel wide."""
    depth, height, width = grid.shape
    volume = np.full(grid.shape, AIR_HU, dtype=np.float32)
    step = max(1, _SLAB_VOXELS // (height * width))
    for start in range(0, depth, step):
        _paint_slab(volume[start : start + step], anatomy, grid.slab(start, start + step), table)
    return volume


def _paint_slab(volume: Volume, anatomy: Anatomy, grid: Grid, table: bool) -> None:
    if table:
        _paint_table(volume, anatomy, grid)
    _paint_wall(volume, anatomy, grid)
    _paint_inside(volume, anatomy, grid)
    paint_tubes(volume, grid, anatomy.tubes)
    _paint_ribs(volume, anatomy, grid)
    _paint_spine(volume, anatomy, grid)


def _paint(volume: Volume, distance: NDArray, hu: NDArray | float, edge_mm: float) -> None:
    """Blend in ``hu`` where the signed distance is negative; the edge is a ramp of width ``edge_mm``."""
    touched = np.min(distance, axis=0) < edge_mm / 2
    if not touched.any():
        return
    rows, columns = np.flatnonzero(touched.any(axis=1)), np.flatnonzero(touched.any(axis=0))
    box = (slice(None), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    part, hu = volume[box], np.asarray(hu, dtype=np.float32)
    cover = np.clip(0.5 - distance[box] / np.float32(edge_mm), 0, 1)
    part += cover * ((hu[box] if hu.shape[1:] == volume.shape[1:] else hu) - part)


def _paint_table(volume: Volume, anatomy: Anatomy, grid: Grid) -> None:
    """Table: a carbon-fibre shell around foam, concave towards the patient."""
    height = anatomy.half_depth + 12 - 0.0016 * grid.x**2
    slab = np.maximum(np.abs(grid.y - height) - 9, np.abs(grid.x) - 205)
    _paint(volume, slab, -180.0, grid.pixel_mm)
    _paint(volume, slab + 3, -930.0, grid.pixel_mm)


def _paint_wall(volume: Volume, anatomy: Anatomy, grid: Grid) -> None:
    """Skin, fat (with breasts), and muscle."""
    x, y, edge = grid.x, grid.y, grid.pixel_mm
    body = superellipse(x, y, anatomy.half_width, anatomy.half_depth, 2.4)
    if anatomy.sex == "F":
        level = 1 - np.exp(-(((grid.z + 30) / 50) ** 2))
        breasts = superellipse(np.abs(x) - 60, y + anatomy.half_depth - 12, 48, 32) + 26 * level
        body = np.minimum(body, breasts)
    _paint(volume, body, 15.0, edge)
    _paint(volume, body + 2.2, FAT_HU, edge)
    muscle = superellipse(x, y - 2, anatomy.half_width - anatomy.fat, anatomy.half_depth - anatomy.fat, 2.3)
    _paint(volume, muscle, MUSCLE_HU, edge)
    between_layers = np.maximum(np.abs(muscle + 7) - 1.1, 12 - np.abs(x))
    _paint(volume, between_layers, -70.0, edge)


def _paint_inside(volume: Volume, anatomy: Anatomy, grid: Grid) -> None:
    """Mediastinal fat, abdomen, heart, and lungs."""
    x, y, z = grid.x, grid.y, grid.z
    cage = cage_distance(anatomy, x, y, z)
    _paint(volume, cage + 1.5, FAT_HU + 15, grid.pixel_mm)
    dome = dome_distance(anatomy, x, y, z)
    organs = MUSCLE_HU + 8 + 0.35 * (anatomy.blood_hu - 40)
    _paint(volume, np.maximum(cage + 3, -dome), organs, grid.edge_mm)
    heart = ellipsoid(x, y, z, anatomy.heart_mm, anatomy.heart_radii)
    heart = np.maximum(heart, cage + 5)
    _paint(volume, heart, MUSCLE_HU + 0.4 * (anatomy.blood_hu - 40), grid.edge_mm)
    septum = np.abs((x - anatomy.heart_mm[0]) * 0.7 + (y - anatomy.heart_mm[1]) * 0.7) - 4
    _paint(volume, np.maximum(heart + 9, -septum), anatomy.blood_hu, grid.edge_mm)
    lung = lung_distance(anatomy, x, y, z)
    _paint(volume, lung, _lung_density(anatomy, grid), grid.edge_mm)


def _lung_density(anatomy: Anatomy, grid: Grid) -> NDArray[np.float32]:
    """Density of the lung in HU: mottled, and higher posteriorly, where gravity pulls the blood."""
    gravity = 45 * np.clip(grid.y / anatomy.cage_depth, -1, 1)
    return (anatomy.lung_hu + gravity + _MOTTLE_HU * _mottle(anatomy.texture, grid)).astype(np.float32)


def _mottle(texture: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """The white noise ``texture``, fixed to the body and interpolated linearly to the grid."""
    in_z, in_y, in_x = (
        _interpolation(c.ravel(), n) for c, n in zip((grid.z, grid.y, grid.x), texture.shape, strict=True)
    )
    volume = np.tensordot(in_z, texture, axes=(1, 0))
    return np.asarray(in_y @ volume @ in_x.T, dtype=np.float32)


def _interpolation(coordinate: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Matrix [len(coordinate), size] of linear interpolation on a periodic lattice."""
    position = coordinate / _MOTTLE_STEP_MM
    low = np.floor(position)
    matrix = np.zeros((len(position), size), dtype=np.float32)
    rows = np.arange(len(position))
    matrix[rows, low.astype(int) % size] += 1 - (position - low)
    matrix[rows, (low.astype(int) + 1) % size] += position - low
    return matrix


def _paint_ribs(volume: Volume, anatomy: Anatomy, grid: Grid) -> None:
    """Ribs: bands on the rib cage that descend from the spine to the front, ending in cartilage."""
    x, y = np.broadcast_arrays(grid.x[0], grid.y[0])
    shell = superellipse(x, y, anatomy.cage_width, anatomy.cage_depth, 2.3) - 5
    near = (shell > -75) & (shell < 10)
    around = np.arctan2(np.abs(x[near]), y[near]) / np.pi  # 0 at the spine, 1 at the sternum
    narrowing = cage_narrowing(grid.z[:, 0])
    across = (shell[near] + narrowing) / 4.5
    phase = (grid.z[:, 0] + 95 * around) / anatomy.rib_pitch
    along = (phase - np.round(phase)) * anatomy.rib_pitch / 7.0
    distance = (np.sqrt(across**2 + along**2) - 1) * 4.5
    cartilage = around > 0.86
    cortex = np.where(cartilage, 110.0, anatomy.bone_hu)
    marrow = np.where(cartilage, 110.0, 0.45 * anatomy.bone_hu)
    columns = volume[:, None, near]
    _paint(columns, distance[:, None], cortex[None, None], grid.pixel_mm)
    _paint(columns, distance[:, None] + 2.5, marrow[None, None], grid.pixel_mm)
    volume[:, near] = columns[:, 0]


def _paint_spine(volume: Volume, anatomy: Anatomy, grid: Grid) -> None:
    """Vertebrae with discs, canal and processes; sternum; and scapulae."""
    x, y, z, edge = grid.x, grid.y, grid.z, grid.pixel_mm
    bone, centre = anatomy.bone_hu, anatomy.spine_y
    body = superellipse(x, y - centre, 18, 15)
    disc = np.abs(np.mod(z, 25) - 12.5) > 9.5
    _paint(volume, body, np.where(disc, 80.0, 0.9 * bone), edge)
    _paint(volume, body + 3, np.where(disc, 80.0, 0.38 * bone + 40), edge)
    canal = superellipse(x, y - centre - 24, 11, 9)
    _paint(volume, np.abs(canal - 3) - 3, 0.8 * bone, edge)
    _paint(volume, canal, 25.0, edge)
    level = np.mod(z, 25) < 15
    spinous = np.maximum(np.abs(x) - 4, np.abs(y - centre - 44) - 13)
    _paint(volume, np.where(level, spinous, 99.0), 0.8 * bone, edge)
    transverse = np.maximum(np.abs(y - centre - 20 - 0.2 * np.abs(x)) - 5, np.abs(np.abs(x) - 26) - 14)
    _paint(volume, np.where(level, transverse, 99.0), 0.65 * bone, edge)
    sternum = superellipse(x, y + anatomy.cage_depth - cage_narrowing(z) + 5, 19, 6)
    _paint(volume, np.maximum(sternum, -60 - z), 0.45 * bone, edge)
    scapula = _scapula_distance(anatomy, x, y) - 2.5
    _paint(volume, np.maximum(scapula, np.abs(z - 70) - 60), 0.8 * bone, edge)


def _scapula_distance(anatomy: Anatomy, x: NDArray, y: NDArray) -> NDArray:
    """Distance in mm to the oblique plates behind the upper ribs."""
    start = np.array([0.90 * anatomy.cage_width, anatomy.cage_depth * 0.56])
    axis = np.array([-0.30 * anatomy.cage_width, 32.0])
    dx, dy = np.abs(x) - float(start[0]), y - float(start[1])
    along = np.clip((dx * float(axis[0]) + dy * float(axis[1])) / float(axis @ axis), 0, 1)
    return np.hypot(dx - along * float(axis[0]), dy - along * float(axis[1]))
