"""Lung lesions: margin (outline) and texture (interior), and how they are painted into a chest.

Size has the same distribution in every class, and the property that is not the label varies freely: in the ``texture``
task every class has all margins, in the ``shape`` task all textures. Hence no class can be recognised by size alone,
and all tasks have similar images. In the ``appearance`` task a class is a margin with a texture, as a radiologist would
describe a nodule.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from med_transfer.phantoms.grid import Grid

Task = Literal["texture", "shape", "appearance"]
_TEXTURES, _MARGINS = ("solid", "part-solid", "ground-glass"), ("smooth", "lobulated", "spiculated")
_DESCRIPTIONS = {f"{margin} {texture}": (margin, texture) for margin in _MARGINS for texture in _TEXTURES}
CLASSES: dict[Task, tuple[str, ...]] = {
    "texture": _TEXTURES,
    "shape": (*_MARGINS, "cavitated"),
    "appearance": tuple(_DESCRIPTIONS),
}
SMALLEST_MM, LARGEST_MM = 8.0, 28.0

_SAMPLE_MM = 1.1  # a lesion is sampled at this spacing, then averaged over each voxel


@dataclass(frozen=True)
class Lesion:
    """One lesion; lengths in mm, or as a fraction of the radius where the name says ``ratio``.

    Attributes:
        centre_mm: centre in LPS, in the anatomy's coordinates.
        stretch: [3, 3], maps offsets in units of the radius to the unit ball of an ellipsoid of the same volume.
        directions: [n, 3], unit vectors of the lobes or spicules.
        lobe_ratio, spicule_ratio: how far lobes and spicules protrude; 0 for none.
        spicule_mm: half width of a spicule at its root.
        solid_hu, ground_glass_hu: densities of the core and of the part around it.
        core_ratio: radius of the solid core; 0 for ground-glass, above 1 for solid.
        core_shift: [3], shift of the core's centre, as fractions of the radius.
        cavity_ratio: radius of the air-filled cavity; 0 for none.
        rim_mm: width of the edge's transition.
        waves: [m, 4], wave vectors (rad/mm) and phases of the density's mottle.
        mottle_hu: amplitude of the mottle.
    """

    centre_mm: tuple[float, float, float]
    diameter_mm: float
    stretch: NDArray
    directions: NDArray
    lobe_ratio: float
    spicule_ratio: float
    spicule_mm: float
    solid_hu: float
    ground_glass_hu: float
    core_ratio: float
    core_shift: NDArray
    cavity_ratio: float
    rim_mm: float
    waves: NDArray
    mottle_hu: float

    @property
    def reach_mm(self) -> float:
        """Upper bound on the distance of any part of the lesion from its centre."""
        return self.diameter_mm / 2 * (1.25 + max(self.lobe_ratio, self.spicule_ratio)) + self.rim_mm


def draw_diameter_mm(rng: np.random.Generator) -> float:
    """Draw the diameter of a lesion, independent of its class."""
    return round(SMALLEST_MM + (LARGEST_MM - SMALLEST_MM) * rng.beta(1.6, 1.4), 2)


def draw_lesion(
    rng: np.random.Generator,
    task: Task,
    label: str,
    centre_mm: tuple[float, float, float],
    diameter_mm: float,
    difficulty: float,
) -> Lesion:
    """Draw a random lesion of class ``label``; ``difficulty`` 0 .. 1 makes the classes more alike."""
    if task == "texture":
        texture, margin = label, str(rng.choice(_MARGINS))
    elif task == "shape":
        texture, margin = str(rng.choice(_TEXTURES, p=(0.6, 0.2, 0.2))), label
    else:
        margin, texture = _DESCRIPTIONS[label]
    return Lesion(
        centre_mm=centre_mm,
        diameter_mm=diameter_mm,
        **_draw_margin(rng, margin, difficulty),
        **_draw_texture(rng, texture, difficulty),
    )


def _draw_margin(rng: np.random.Generator, margin: str, difficulty: float) -> dict:
    axes = np.exp(rng.normal(0, 0.10, 3))
    axes /= axes.prod() ** (1 / 3)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    count = {"lobulated": int(rng.integers(4, 8)), "spiculated": int(rng.integers(8, 14))}.get(margin, 3)
    shy = 1 - 0.45 * difficulty  # how pronounced the features of the margin are
    return {
        "stretch": (rotation / axes) @ rotation.T,
        "directions": _spread_directions(rng, count),
        "lobe_ratio": rng.uniform(0.40, 0.60) * shy if margin == "lobulated" else rng.uniform(0.0, 0.10),
        "spicule_ratio": rng.uniform(0.6, 0.9) * (0.6 + 0.4 * shy) if margin == "spiculated" else 0.0,
        "spicule_mm": rng.uniform(1.7, 2.4) * (0.6 + 0.4 * shy),
        "cavity_ratio": rng.uniform(0.50, 0.70) * (0.55 + 0.45 * shy) if margin == "cavitated" else 0.0,
        "rim_mm": rng.uniform(0.6, 1.6),
    }


def _draw_texture(rng: np.random.Generator, texture: str, difficulty: float) -> dict:
    core = {
        "solid": 2.0,
        "part-solid": rng.uniform(max(0.60 - 0.76 * difficulty, 0.05), 0.62 + 0.60 * difficulty),
        "ground-glass": 0.0,
    }[texture]
    return {
        "solid_hu": float(np.clip(rng.normal(30 - 240 * difficulty, 20 + 260 * difficulty), -420, 110)),
        "ground_glass_hu": float(np.clip(rng.normal(-580 + 180 * difficulty, 40 + 260 * difficulty), -720, -230)),
        "core_ratio": core,
        "core_shift": rng.uniform(-0.25, 0.25, 3),
        "waves": np.column_stack([rng.normal(0, 0.55, (5, 3)), rng.uniform(0, 2 * np.pi, 5)]),
        "mottle_hu": 15 + 60 * difficulty * rng.random(),
    }


def _spread_directions(rng: np.random.Generator, count: int) -> NDArray:
    """Well-separated unit vectors: a Fibonacci sphere with jitter and a random rotation."""
    n = np.arange(count) + 0.5
    height, turn = 1 - 2 * n / count, np.pi * (1 + 5**0.5) * n
    ring = np.sqrt(1 - height**2)
    points = np.column_stack([ring * np.cos(turn), ring * np.sin(turn), height]) + rng.normal(0, 0.18, (count, 3))
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)) @ rotation


def paint_lesion(volume: NDArray[np.float32], grid: Grid, lesion: Lesion) -> NDArray[np.float32]:
    """Paint the lesion into ``volume`` in place; without a cavity, denser structures (vessels, chest wall) are kept.

    Returns:
        The fraction of each voxel that the lesion fills, including its cavity; same shape as ``volume``.
    """
    cover = np.zeros(grid.shape, dtype=np.float32)
    centre = np.array([lesion.centre_mm])
    pad = np.array([grid.pixel_mm, grid.pixel_mm, grid.slice_mm])
    (box,) = grid.boxes(centre - lesion.reach_mm - pad, centre + lesion.reach_mm + pad)
    if box is None:
        return cover
    axes = [grid.z[box[0]].ravel(), grid.y[:, box[1]].ravel(), grid.x[:, :, box[2]].ravel()]
    steps = [grid.slice_mm, grid.pixel_mm, grid.pixel_mm]
    counts = [int(np.clip(np.ceil(step / _SAMPLE_MM), 1, 5)) for step in steps]
    offsets = np.meshgrid(
        *(_samples(a, s, n) - c for a, s, n, c in zip(axes, steps, counts, lesion.centre_mm[::-1], strict=True)),
        indexing="ij",
    )
    filled, density = _appearance(lesion, np.stack(offsets[::-1], axis=-1).astype(np.float32))
    cover[box] = _average(filled, counts)
    part = volume[box]
    blended = part * (1 - cover[box]) + _average(filled * density, counts)
    keep_denser = lesion.cavity_ratio == 0
    volume[box] = np.maximum(part, blended) if keep_denser else blended
    return cover


def _samples(centres: NDArray, step: float, count: int) -> NDArray:
    """``count`` evenly spaced samples within each voxel of width ``step``."""
    within = ((np.arange(count) + 0.5) / count - 0.5) * step
    return (centres[:, None] + within).ravel()


def _average(fine: NDArray, counts: list[int]) -> NDArray[np.float32]:
    """Mean of the samples of each voxel."""
    a, b, c = counts
    shape = fine.shape
    blocks = fine.reshape(shape[0] // a, a, shape[1] // b, b, shape[2] // c, c)
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32)


def _appearance(lesion: Lesion, offset: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
    """Fraction filled (0 .. 1) and density in HU at points ``offset`` [..., 3] mm from the centre."""
    radius = lesion.diameter_mm / 2
    unit = (offset / radius) @ lesion.stretch.T.astype(np.float32)
    level = np.sqrt(_sum(unit**2)) + np.float32(1e-6)
    cosine = _largest((unit / level[..., None]) @ lesion.directions.T.astype(np.float32))
    bump = np.exp(np.float32(7) * (cosine - 1))
    surface = 1 + np.float32(lesion.lobe_ratio) * (bump - np.float32(0.55))
    filled = np.clip(0.5 - (level - surface) * radius / max(lesion.rim_mm, _SAMPLE_MM), 0, 1)
    if lesion.spicule_ratio:
        filled = np.maximum(filled, _spicules(lesion, level, cosine, radius))
    core_distance = np.sqrt(_sum((unit - lesion.core_shift.astype(np.float32)) ** 2)) - lesion.core_ratio
    solid = np.clip(0.5 - core_distance * radius / 2.0, 0, 1)
    phase = offset @ lesion.waves[:, :3].T.astype(np.float32) + lesion.waves[:, 3].astype(np.float32)
    mottle = np.float32(lesion.mottle_hu) * _sum(np.cos(phase)) / np.float32(2.2)
    density = lesion.ground_glass_hu + solid * (lesion.solid_hu - lesion.ground_glass_hu) + mottle
    if lesion.cavity_ratio:
        air = np.clip(0.5 - (level - lesion.cavity_ratio) * radius / 1.5, 0, 1)
        density += air * (-940 - density)
    return filled.astype(np.float32), density.astype(np.float32)


def _largest(values: NDArray) -> NDArray:
    """Maximum over the short last axis; NumPy's own is many times slower there."""
    return functools.reduce(np.maximum, np.moveaxis(values, -1, 0))


def _sum(values: NDArray) -> NDArray:
    """Sum over the short last axis, likewise; bitwise equal to NumPy's."""
    return functools.reduce(np.add, np.moveaxis(values, -1, 0))


def _spicules(lesion: Lesion, level: NDArray, cosine: NDArray, radius: float) -> NDArray:
    """Fraction filled by spicules: thin cones from the centre; ``cosine`` is that to the nearest cone's axis."""
    along = level * cosine * radius
    across = level * np.sqrt(np.maximum(1 - cosine**2, 0)) * radius
    length = (1 + lesion.spicule_ratio) * radius
    half_width = lesion.spicule_mm * np.clip(1.15 - along / length, 0, 1)
    within = np.clip(0.5 - (across - half_width) / _SAMPLE_MM, 0, 1)
    return within * (along < length) * (along > 0)
