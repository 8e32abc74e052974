"""Synthetic patients and their scans, determined by the seed and the patient's number."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import ConfigError
from med_transfer.phantoms.anatomy import APEX_MM, BASE_MM, Anatomy, Sex, draw_anatomy, lung_distance
from med_transfer.phantoms.chest import paint_chest
from med_transfer.phantoms.imaging import Acquisition, acquire, draw_acquisition
from med_transfer.phantoms.lesions import CLASSES, Lesion, Task, draw_diameter_mm, draw_lesion, paint_lesion
from med_transfer.phantoms.tubes import join, tube

Shape = tuple[int, int, int]
DEFAULT_SHAPE: Shape = (40, 96, 96)


@dataclass(frozen=True)
class Patient:
    """A person with one lesion. ``key`` (seed, task, number) seeds all randomness in the patient's scans."""

    key: tuple[int, int, int]
    label: str
    sex: Sex
    age: int
    anatomy: Anatomy
    lesion: Lesion
    difficulty: float


@dataclass(frozen=True)
class Scan:
    """One scan and its ground truth.

    Attributes:
        voxels: int16 HU [depth, height, width].
        acquisition: acquisition parameters, including the affine.
        lesion_mm: centre of the lesion in LPS mm, in the scan's coordinates.
        lesion_size_mm: diameter of the lesion.
        mask: boolean mask of the lesion, same shape as ``voxels``.
    """

    voxels: NDArray[np.int16]
    acquisition: Acquisition
    lesion_mm: tuple[float, float, float]
    lesion_size_mm: float
    mask: NDArray[np.bool_]

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel index (i, j, k) to LPS mm."""
        return self.acquisition.affine


class PhantomVolume(NamedTuple):
    """A phantom in memory: HU [depth, height, width], affine (i, j, k) to LPS mm, centre and diameter of the lesion."""

    voxels: NDArray[np.int16]
    affine: NDArray[np.float64]
    lesion_mm: tuple[float, float, float]
    lesion_size_mm: float


def phantom_volume(
    label: str = "solid",
    *,
    task: Task | None = None,
    seed: int = 0,
    patient: int = 0,
    scan: int = 0,
    shape: Shape = DEFAULT_SHAPE,
    difficulty: float = 0.5,
) -> PhantomVolume:
    """Return one scan in memory, without writing a cohort.

    Args:
        label: a class of one of the tasks.
        task: ``texture``, ``shape`` or ``appearance``; None takes the first task that has the label.
        seed, patient: determine the person.
        scan: number of the person's scan.
        shape: (depth, height, width).
        difficulty: 0 easy .. 1 hard.

    Raises:
        ConfigError: the label is unknown.
    """
    tasks: list[Task] = [kind for kind, names in CLASSES.items() if label in names and task in (None, kind)]
    if not tasks:
        names = ", ".join(name for names in CLASSES.values() for name in names)
        raise ConfigError(f"unknown class {label!r}", where="label", expected=f"one of {names}")
    made = take_scan(draw_patient(seed, tasks[0], patient, label=label, difficulty=difficulty), scan, shape)
    return PhantomVolume(made.voxels, made.affine, made.lesion_mm, made.lesion_size_mm)


def draw_patient(seed: int, task: Task, number: int, *, label: str | None = None, difficulty: float = 0.5) -> Patient:
    """Draw patient ``number`` of a cohort; unless a label is given, patients cycle through the classes."""
    names = CLASSES[task]
    key = (seed, list(CLASSES).index(task), number)
    rng = np.random.default_rng(key)
    label = label or names[number % len(names)]
    sex: Sex = "F" if rng.random() < 0.5 else "M"
    anatomy = draw_anatomy(rng, sex)
    diameter = draw_diameter_mm(rng)
    centre = _place_lesion(rng, anatomy, diameter)
    lesion = draw_lesion(rng, task, label, centre, diameter, difficulty)
    anatomy = _feed(rng, anatomy, lesion, vessels=int(rng.integers(0, 2 + round(4 * difficulty))))
    age = int(np.clip(rng.normal(63, 11), 28, 89))
    return Patient(key, label, sex, age, anatomy, lesion, difficulty)


def _place_lesion(rng: np.random.Generator, anatomy: Anatomy, diameter: float) -> tuple[float, float, float]:
    """A random position in either lung where the lesion, without its spicules, fits inside."""
    width, depth = anatomy.cage_width, anatomy.cage_depth
    points = rng.uniform((-width, -depth, BASE_MM + 25), (width, depth, APEX_MM - 12), size=(4000, 3))
    clearance = -lung_distance(anatomy, points[:, 0], points[:, 1], points[:, 2])
    inside = points[clearance > diameter / 2 + 4]
    x, y, z = (inside if len(inside) else points[[np.argmax(clearance)]])[0]
    return round(float(x), 3), round(float(y), 3), round(float(z), 3)


def _feed(rng: np.random.Generator, anatomy: Anatomy, lesion: Lesion, vessels: int) -> Anatomy:
    """Add vessels that pass through or beside the lesion, with the same distribution in every class."""
    tubes = [anatomy.tubes]
    for _ in range(vessels):
        through = np.array(lesion.centre_mm) + rng.normal(0, 0.35 * lesion.diameter_mm, 3)
        direction = rng.normal(size=3)
        direction *= rng.uniform(12, 26) / np.linalg.norm(direction)
        radius = rng.uniform(0.8, 2.6)
        tubes.append(tube(through - direction, through + direction, (radius, 0.6 * radius), anatomy.blood_hu))
    return replace(anatomy, tubes=join(tubes))


def take_scan(
    patient: Patient, number: int, shape: Shape = DEFAULT_SHAPE, field_of_view_mm: float | None = None
) -> Scan:
    """Simulate scan ``number`` of a patient; each may use any scanner, and in later ones the lesion has grown a little.

    ``shape`` is (depth, height, width); for ``field_of_view_mm`` see :func:`draw_acquisition`.
    """
    rng = np.random.default_rng((*patient.key, 1 + number))
    growth = 1.0 if number == 0 else rng.uniform(1.0, 1.08)
    lesion = replace(patient.lesion, diameter_mm=round(patient.lesion.diameter_mm * growth, 2))
    acquisition = draw_acquisition(rng, patient.anatomy, lesion.centre_mm, shape, patient.difficulty, field_of_view_mm)
    ideal = paint_chest(patient.anatomy, acquisition.grid, table=acquisition.scanner.table)
    cover = paint_lesion(ideal, acquisition.grid, lesion)
    x, y, z = (round(c + s, 3) for c, s in zip(lesion.centre_mm, acquisition.shift_mm, strict=True))
    return Scan(
        voxels=acquire(rng, ideal, acquisition),
        acquisition=acquisition,
        lesion_mm=(x, y, z),
        lesion_size_mm=lesion.diameter_mm,
        mask=cover > 0.5 * cover.max(),
    )
