"""Vessels and airways as tubes: straight segments with a radius at each end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from med_transfer.phantoms.grid import Grid

Distance = Callable[[NDArray], NDArray]


@dataclass(frozen=True)
class Tubes:
    """Tube segments: ``start`` and ``end`` [n, 3] in mm, ``radius`` [n, 2] in mm at both ends, ``hu`` [n]."""

    start: NDArray
    end: NDArray
    radius: NDArray
    hu: NDArray

    def __len__(self) -> int:
        return len(self.hu)


def tube(start: ArrayLike, end: ArrayLike, radius: ArrayLike, hu: float) -> Tubes:
    """Return one segment; ``radius`` is one number, or one for each end, in mm."""
    radii = np.broadcast_to(np.asarray(radius, dtype=float), 2)
    return Tubes(np.array([start], dtype=float), np.array([end], dtype=float), radii[None], np.array([float(hu)]))


def join(parts: list[Tubes]) -> Tubes:
    """Return the segments of several sets, in order."""
    return Tubes(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("start", "end", "radius", "hu")))


def vessel_tree(
    rng: np.random.Generator,
    hilum: ArrayLike,
    outward: float,
    distance: Distance,
    hu: float,
    roots: int = 11,
    generations: int = 5,
) -> Tubes:
    """Draw a pulmonary arterial tree that grows from a hilum and stays inside the lung.

    Args:
        rng: random generator.
        hilum: root of the tree, in mm.
        outward: +1 for the left lung (x points to Left), -1 for the right.
        distance: signed distance of points [n, 3] to the lung's surface in mm, negative inside.
        hu: density of blood.
        roots: number of vessels at the hilum.
        generations: number of generations of branches, including the roots.
    """
    direction = rng.normal(size=(roots, 3)) * (0.5, 0.8, 1.0) + (outward * 0.9, 0.0, 0.0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    position = np.tile(np.asarray(hilum, dtype=float), (roots, 1))
    radius = rng.uniform(2.6, 4.0, roots)
    parts = []
    for generation in range(generations):
        length = rng.uniform(17, 32, len(radius)) * 0.87**generation
        end = position + direction * length[:, None]
        inside = (distance(end) < -2.0) | (generation == 0)
        position, end, direction, radius = position[inside], end[inside], direction[inside], radius[inside]
        thinner = radius * 0.78
        parts.append(Tubes(position, end, np.stack([radius, thinner], 1), np.full(len(radius), float(hu))))
        position, radius = np.repeat(end, 2, axis=0), np.repeat(thinner * 0.92, 2)
        direction = np.repeat(direction, 2, axis=0) + rng.normal(scale=0.45, size=(len(radius), 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return join(parts)


def paint_tubes(volume: NDArray[np.float32], grid: Grid, tubes: Tubes) -> None:
    """Paint the segments into ``volume`` [k, j, i] (HU), in place.

    A tube thinner than a voxel is painted wider and fainter, which preserves area x contrast of its cross-section: the
    partial-volume effect.
    """
    edge = grid.edge_mm
    drawn_radius = np.sqrt(tubes.radius**2 + (edge / 2) ** 2)
    strength = np.mean(tubes.radius**2 / drawn_radius**2, axis=1)
    thick, taper, strength = (a.tolist() for a in (drawn_radius[:, 0], np.diff(drawn_radius)[:, 0], strength))
    reach = drawn_radius.max(axis=1, keepdims=True) + edge / 2
    boxes = grid.boxes(np.minimum(tubes.start, tubes.end) - reach, np.maximum(tubes.start, tubes.end) + reach)
    for n, box in enumerate(boxes):
        if box is None:
            continue
        z, y, x = grid.z[box[0]], grid.y[:, box[1]], grid.x[:, :, box[2]]
        distance, along = _distance_to_segment(x, y, z, tubes.start[n], tubes.end[n])
        radius = thick[n] + along * taper[n]
        cover = np.minimum(np.maximum(0.5 + (radius - distance) / edge, 0), 1) * strength[n]  # faster here than np.clip
        part = volume[box]
        part += cover * (float(tubes.hu[n]) - part)


def _distance_to_segment(x: NDArray, y: NDArray, z: NDArray, start: NDArray, end: NDArray) -> tuple[NDArray, NDArray]:
    """Distance to the segment in mm, and position along it (0 at the start, 1 at the end)."""
    axis = (end - start).astype(np.float32)
    squared = max(float(axis @ axis), 1e-6)
    dx, dy, dz = x - np.float32(start[0]), y - np.float32(start[1]), z - np.float32(start[2])
    projection = dx * axis[0] + dy * axis[1] + dz * axis[2]
    along = np.minimum(np.maximum(projection / squared, 0), 1)
    distance_squared = dx * dx + dy * dy + dz * dz - along * (2 * projection - along * squared)
    return np.sqrt(np.maximum(distance_squared, 0)), along
