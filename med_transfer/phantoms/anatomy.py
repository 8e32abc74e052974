"""A person's chest as analytic shapes in millimetres.

Coordinates are LPS, with the origin in the middle of the thorax at the level of the carina: x points to Left, y to
Posterior, z to Superior. A *signed distance* is negative inside a shape, exact at the surface, and approximate far from
it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from med_transfer.phantoms.tubes import Tubes, join, tube, vessel_tree

Sex = Literal["F", "M"]

AIR_HU = -1000.0
FAT_HU = -100.0
MUSCLE_HU = 52.0
APEX_MM, BASE_MM = 118.0, -105.0  # upper and lower limit of the lungs along z


@dataclass(frozen=True)
class Anatomy:
    """Anatomy of one person; sizes in mm, densities in HU.

    Attributes:
        half_width, half_depth: semi-axes of the body outline.
        fat: thickness of the subcutaneous fat.
        cage_width, cage_depth: semi-axes of the inside of the rib cage.
        heart_mm, heart_radii: centre and semi-axes of the heart.
        dome_mm: z of the top of the diaphragm (right, left).
        lung_hu, blood_hu, bone_hu: densities; that of blood depends on contrast medium.
        tubes: airways, great vessels, and vessels of both lungs.
        rib_pitch: distance between ribs along z.
        texture: white noise that gives the lung its mottle.
    """

    sex: Sex
    half_width: float
    half_depth: float
    fat: float
    cage_width: float
    cage_depth: float
    mediastinum: float
    heart_mm: tuple[float, float, float]
    heart_radii: tuple[float, float, float]
    dome_mm: tuple[float, float]
    lung_hu: float
    blood_hu: float
    bone_hu: float
    rib_pitch: float
    tubes: Tubes
    texture: NDArray[np.float32]

    @property
    def spine_y(self) -> float:
        """y of the centre of the vertebral bodies, in mm."""
        return self.cage_depth - 22.0


def superellipse(x: NDArray, y: NDArray, width: float, depth: float, power: float = 2.0) -> NDArray:
    """Return the signed distance to |x/width|^p + |y/depth|^p = 1, exact to first order at the curve."""
    u, v = np.abs(x) / width + 1e-6, np.abs(y) / depth + 1e-6
    level = (u**power + v**power) ** (1 / power)
    slope = level ** (1 - power) * np.hypot(u ** (power - 1) / width, v ** (power - 1) / depth)
    return (level - 1) / slope


def ellipsoid(
    x: NDArray, y: NDArray, z: NDArray, centre: tuple[float, float, float], radii: tuple[float, float, float]
) -> NDArray:
    """Return the signed distance to an ellipsoid, exact to first order at the surface."""
    u, v, w = ((c - m) / r for c, m, r in zip((x, y, z), centre, radii, strict=True))
    level = np.sqrt(u * u + v * v + w * w)
    slope = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2 + (w / radii[2]) ** 2) + 1e-6
    return level * (level - 1) / slope


def cage_distance(anatomy: Anatomy, x: NDArray, y: NDArray, z: NDArray) -> NDArray:
    """Return the signed distance to the inside of the rib cage, which narrows towards the neck."""
    return superellipse(x, y, anatomy.cage_width, anatomy.cage_depth, 2.3) + cage_narrowing(z)


def cage_narrowing(z: NDArray) -> NDArray:
    """Return by how many mm the rib cage is narrower at z than at the heart."""
    return 0.0035 * np.maximum(z - 15, 0) ** 2


def dome_distance(anatomy: Anatomy, x: NDArray, y: NDArray, z: NDArray) -> NDArray:
    """Return the signed distance to the space above the diaphragm."""
    right, left = anatomy.dome_mm
    top = right + (left - right) * (x > 0).astype(np.float32)
    centre = 0.5 * anatomy.cage_width
    flatness = ((np.abs(x) - centre) / centre) ** 2 + (y / anatomy.cage_depth) ** 2
    return 0.8 * (top - 24 * flatness - z)


def lung_distance(anatomy: Anatomy, x: NDArray, y: NDArray, z: NDArray) -> NDArray:
    """Return the signed distance to both lungs: the rib cage without mediastinum, heart, spine and abdomen."""
    depth = y / anatomy.cage_depth  # -1 at the sternum, 1 at the back
    waist = 1 - 0.75 * np.clip(-0.3 - depth, 0, 0.6)  # the lungs nearly meet behind the sternum
    mediastinum = np.abs(x) - anatomy.mediastinum * waist * (1 + 0.12 * np.cos(y / 14))
    flat = superellipse(x, y, anatomy.cage_width, anatomy.cage_depth, 2.3)
    flat = np.maximum(flat, -mediastinum)
    flat = np.maximum(flat, -superellipse(x, y - anatomy.spine_y, 22, 19))
    narrowing = cage_narrowing(z) + 0.014 * np.maximum(z - 68, 0) ** 2
    radii = anatomy.heart_radii
    heart = ellipsoid(x, y, z, anatomy.heart_mm, (radii[0] + 4, radii[1] + 4, radii[2] + 4))
    return np.maximum(np.maximum(flat + narrowing, -heart), dome_distance(anatomy, x, y, z))


def draw_anatomy(rng: np.random.Generator, sex: Sex) -> Anatomy:
    """Draw a random person."""
    size = rng.normal(1.0, 0.035) * (0.95 if sex == "F" else 1.02)
    fat = rng.uniform(8, 20)
    blood = rng.uniform(110, 180) if rng.random() < 0.5 else rng.uniform(38, 48)  # with or without contrast medium
    cage_width, cage_depth = 116 * size * rng.normal(1, 0.02), 80 * size * rng.normal(1, 0.03)
    bare = Anatomy(
        sex=sex,
        half_width=cage_width + 14 + fat,
        half_depth=cage_depth + 16 + fat,
        fat=fat,
        cage_width=cage_width,
        cage_depth=cage_depth,
        mediastinum=rng.uniform(25, 31) * size,
        heart_mm=(rng.uniform(18, 26), rng.uniform(-26, -18), rng.uniform(-52, -42)),
        heart_radii=(rng.uniform(46, 54) * size, rng.uniform(36, 42) * size, rng.uniform(42, 50) * size),
        dome_mm=(rng.uniform(-72, -60), rng.uniform(-82, -70)),
        lung_hu=rng.uniform(-885, -830),
        blood_hu=blood,
        bone_hu=rng.uniform(420, 760),
        rib_pitch=rng.uniform(24, 28),
        tubes=tube((0, 0, 0), (0, 0, 1), 1, 0),
        texture=rng.standard_normal((32, 28, 40), dtype=np.float32),
    )
    return _with_tubes(bare, rng)


def _with_tubes(bare: Anatomy, rng: np.random.Generator) -> Anatomy:
    def distance(points: NDArray) -> NDArray:
        return lung_distance(bare, points[:, 0], points[:, 1], points[:, 2])

    lungs = [
        vessel_tree(
            rng,
            hilum=(side * (bare.mediastinum + 4), 8, rng.uniform(-12, 2)),
            outward=side,
            distance=distance,
            hu=bare.blood_hu,
        )
        for side in (-1.0, 1.0)
    ]
    tubes = join([*lungs, _great_vessels(bare), _airways(bare)])
    return replace(bare, tubes=tubes)


def _great_vessels(anatomy: Anatomy) -> Tubes:
    blood, back, hilum = anatomy.blood_hu, anatomy.spine_y - 14, anatomy.mediastinum + 4
    return join(
        [
            tube((-8, -24, -30), (-10, -22, 42), (14, 15), blood),  # ascending aorta
            tube((-10, -22, 42), (16, back - 14, 50), (14, 12), blood),  # arch
            tube((20, back - 6, 48), (20, back - 2, -160), (12, 10), blood),  # descending aorta
            tube((-26, -14, 60), (-26, -12, -20), 8, blood),  # superior vena cava
            tube((12, -30, -20), (14, -16, 8), (13, 12), blood),  # pulmonary trunk
            tube((14, -14, 8), (hilum, 8, 4), (11, 7), blood),  # left pulmonary artery
            tube((10, -16, 4), (-hilum, 4, -4), (10, 7), blood),  # right pulmonary artery
            tube((-10, -20, 46), (-18, -8, 150), (8, 6), blood),  # brachiocephalic artery
            tube((12, 4, 50), (24, 2, 150), (5, 4), blood),  # left common carotid artery
        ]
    )


def _airways(anatomy: Anatomy) -> Tubes:
    hilum = anatomy.mediastinum + 10
    return join(
        [
            tube((0, 10, 150), (0, 14, 12), 8.5, AIR_HU),  # trachea
            tube((0, 14, 14), (hilum, 16, -22), (7, 5), AIR_HU),  # main bronchi
            tube((0, 14, 14), (-hilum, 14, -16), (7.5, 5), AIR_HU),
            tube((-hilum, 14, -16), (-hilum - 14, 18, -44), (4.5, 3), AIR_HU),
            tube((hilum, 16, -22), (hilum + 12, 24, -46), (4.5, 3), AIR_HU),
        ]
    )
