"""Simulated scanners: voxel size, blur, slice thickness, noise, and the reconstruction circle."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from med_transfer.phantoms.anatomy import APEX_MM, BASE_MM, Anatomy
from med_transfer.phantoms.grid import Grid, centred_grid
from med_transfer.scans import geometry

_CIRCLE_HU = -1024  # outside the reconstruction circle
_ROI_HALF_MM = 24.0  # a scan that is long enough covers at least this much above and below the lesion


@dataclass(frozen=True)
class Kernel:
    """A reconstruction kernel: in-plane blur (standard deviation, mm), edge enhancement, and noise spectrum."""

    name: str
    blur_mm: float
    boost: float
    noise_cutoff: float  # fraction of the Nyquist frequency at which the noise has fallen to 1/e


@dataclass(frozen=True)
class Scanner:
    """A scanner at a site; ``slice_mm`` holds its (spacing, thickness) protocols."""

    name: str
    manufacturer: str
    model: str
    site: str
    kernel: Kernel
    noise_hu: float
    slice_mm: tuple[tuple[float, float], ...]
    circle: bool = False
    table: bool = True
    head_first_file: bool = True  # instance numbers start at the head
    kvp: int = 120


_A, _B, _C = "Phantom Vendor A", "Phantom Vendor B", "Phantom Vendor C"
SCANNERS: tuple[Scanner, ...] = (
    Scanner("A-64", _A, "Alpha 64", "north", Kernel("STANDARD", 0.75, 0.0, 0.45), 20, ((2.5, 2.5), (1.25, 1.25)), True),
    Scanner("A-256", _A, "Alpha 256", "south", Kernel("LUNG", 0.45, 0.5, 0.85), 34, ((1.25, 1.25), (2.5, 2.5)), True),
    Scanner("B-40", _B, "Beta 40", "north", Kernel("B31f", 0.85, 0.0, 0.40), 17, ((3.0, 5.0), (2.0, 3.0))),
    Scanner("B-128", _B, "Beta 128", "east", Kernel("B60f", 0.50, 0.35, 0.75), 30, ((1.0, 1.5), (2.0, 2.0))),
    Scanner(
        "C-16",
        _C,
        "Gamma 16",
        "south",
        Kernel("FC08", 0.80, 0.0, 0.45),
        22,
        ((5.0, 5.0), (3.0, 3.0)),
        table=False,
        head_first_file=False,
    ),
    Scanner(
        "C-80",
        _C,
        "Gamma 80",
        "east",
        Kernel("FC51", 0.50, 0.3, 0.70),
        27,
        ((1.0, 1.0), (3.0, 3.0)),
        head_first_file=False,
        kvp=100,
    ),
)


@dataclass(frozen=True)
class Acquisition:
    """Acquisition parameters of one scan.

    Attributes:
        affine: voxel index (i, j, k) to LPS mm in the scanner's frame.
        shift_mm: shift from the anatomy's coordinates to the scanner's.
        slice_thickness_mm: can exceed the distance between slices.
        noise_hu: standard deviation of the noise.
    """

    scanner: Scanner
    grid: Grid
    affine: NDArray[np.float64]
    shift_mm: tuple[float, float, float]
    slice_thickness_mm: float
    noise_hu: float


def draw_acquisition(
    rng: np.random.Generator,
    anatomy: Anatomy,
    lesion_mm: tuple[float, float, float],
    shape: tuple[int, int, int],
    difficulty: float,
    field_of_view_mm: float | None = None,
) -> Acquisition:
    """Draw a random scanner and protocol for a scan that contains the lesion.

    Args:
        rng: random generator.
        anatomy: the patient.
        lesion_mm: centre of the lesion.
        shape: (depth, height, width) of the scan.
        difficulty: 0 .. 1, increases the noise.
        field_of_view_mm: width, and least length, of a targeted reconstruction around the lesion; None for the chest.
    """
    depth, height, width = shape
    scanner = SCANNERS[int(rng.integers(len(SCANNERS)))]
    narrowest = max(300.0, 2 * anatomy.half_width + 4)
    width_mm, length_mm = rng.uniform(narrowest, max(360.0, narrowest + 5)), 84.0
    spacing, thickness = scanner.slice_mm[int(rng.integers(len(scanner.slice_mm)))]
    x, y = rng.normal(0, 3), rng.normal(3, 3)
    if field_of_view_mm is not None:
        scanner = replace(scanner, circle=False)
        width_mm = length_mm = field_of_view_mm
        x, y = x + lesion_mm[0], y + lesion_mm[1] - 3
    pixel = round(width_mm / min(height, width), 4)
    slice_mm = round(float(np.clip(spacing, length_mm / depth, 250 / depth)), 3)
    centre = (x, y, _scan_centre(rng, lesion_mm[2], depth * slice_mm))
    off_centre = rng.normal(0, 9, 2) * (rng.random() < 0.5)
    shift = (round(float(off_centre[0]), 1), round(float(off_centre[1]), 1), round(rng.uniform(-900, -100), 1))
    centre = tuple(round(c, 3) for c in centre)
    grid = centred_grid(shape, pixel, slice_mm, np.array(centre))
    affine = geometry.grid_affine("SPL", (slice_mm, pixel, pixel), np.add(centre, shift), shape)
    return Acquisition(
        scanner=scanner,
        grid=grid,
        affine=np.round(affine, 6),
        shift_mm=shift,
        slice_thickness_mm=round(max(thickness * slice_mm / spacing, slice_mm), 3),
        noise_hu=scanner.noise_hu * rng.uniform(0.8, 1.25) * (0.6 + 0.9 * difficulty),
    )


def _scan_centre(rng: np.random.Generator, lesion_z: float, length_mm: float) -> float:
    """z of the scan's centre: within the lungs if possible, and always such that the scan contains the lesion."""
    free = max(0.0, length_mm / 2 - _ROI_HALF_MM)
    wanted = lesion_z + rng.uniform(-free, free)
    low, high = BASE_MM + length_mm / 2 - 15, APEX_MM - length_mm / 2 + 15
    wanted = float(np.clip(wanted, min(low, high), max(low, high)))
    return float(np.clip(wanted, lesion_z - free, lesion_z + free))


def acquire(rng: np.random.Generator, ideal_hu: NDArray[np.float32], acquisition: Acquisition) -> NDArray[np.int16]:
    """Simulate the acquisition of an ideal image: blur and noise; int16 HU within -1024 .. 3071."""
    kernel, grid = acquisition.scanner.kernel, acquisition.grid
    blur = kernel.blur_mm / grid.pixel_mm
    slice_blur = np.sqrt(max(acquisition.slice_thickness_mm**2 - grid.slice_mm**2, 0) / 12) / grid.slice_mm
    image = ndimage.gaussian_filter(ideal_hu, (slice_blur, blur, blur), mode="nearest", truncate=3.0)
    if kernel.boost:
        image += kernel.boost * (image - ndimage.gaussian_filter(image, (0, 0.8, 0.8), mode="nearest", truncate=2.5))
    image += np.float32(acquisition.noise_hu) * ct_noise(rng, ideal_hu.shape, kernel.noise_cutoff)
    voxels = np.clip(np.rint(image), _CIRCLE_HU + 1, 3071).astype(np.int16)
    if acquisition.scanner.circle:
        voxels[:, _outside_circle(*grid.shape[1:])] = _CIRCLE_HU
    return voxels


def ct_noise(rng: np.random.Generator, shape: tuple[int, ...], cutoff: float) -> NDArray[np.float32]:
    """Return unit-variance noise with CT's in-plane power spectrum, a ramp cut off by the kernel; slices independent.

    Source: Riederer, Pelc & Chesler 1978, Phys Med Biol 23:446 (the ramp of filtered back-projection).
    """
    _, height, width = shape
    frequency = np.hypot(fft.fftfreq(height)[:, None], fft.rfftfreq(width)[None]) / 0.5
    response = np.sqrt(frequency + 0.02) * np.exp(-((frequency / cutoff) ** 2))
    multiplicity = np.full(width // 2 + 1, 2.0)  # rfft returns one of each conjugate pair
    multiplicity[0] = 1.0
    if width % 2 == 0:
        multiplicity[-1] = 1.0
    response /= np.sqrt((response**2 * multiplicity).sum() / (height * width))
    noise = np.empty(shape, dtype=np.float32)
    for k in range(shape[0]):
        spectrum = fft.rfft2(rng.standard_normal((height, width), dtype=np.float32))
        noise[k] = np.asarray(fft.irfft2(spectrum * response.astype(np.float32), s=(height, width)))
    return noise


def _outside_circle(height: int, width: int) -> NDArray[np.bool_]:
    y, x = np.ogrid[:height, :width]
    radius = min(height, width) / 2
    return (y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2) ** 2 > radius**2
