"""Orientation, resampling and window of a CT: ours, MONAI, TorchIO and SimpleITK side by side.

    OMP_NUM_THREADS=1 python benchmarks/preprocessing.py > table.md
    OMP_NUM_THREADS=1 python benchmarks/preprocessing.py --scan FOLDER_OR_FILE --repeats 7

Every library starts from int16 in memory in its own image type and ends with windowed float32 on the same grid.
Calls are interleaved, figures are medians. Errors are the largest, relative to the window's width, against MONAI's
eager chain in float64: over the voxels inside the scan, and over all voxels (libraries pad differently).
Prints Markdown.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
import torch
import torchio
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.intensity.array import ScaleIntensityRange
from monai.transforms.spatial.array import Orientation, Resize, Spacing, SpatialResample
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from med_transfer.preprocessing import resample
from med_transfer.preprocessing.monai_transforms import ResampleToGrid
from med_transfer.preprocessing.window import apply_window
from med_transfer.scans import geometry, read_scan
from med_transfer.scans.geometry import Grid, index_map

WINDOW_HU = (-1000.0, 400.0)
SPACING_MM = (1.5, 1.5, 1.5)
OURS = "ours"
REFERENCE = "MONAI eager, float64 (its default)"


@dataclass(frozen=True)
class Scan:
    voxels: NDArray[np.int16]  # [depth, height, width]
    affine: geometry.Affine  # (i, j, k) to LPS mm

    def for_monai(self) -> MetaTensor:
        """[1, i, j, k] and RAS, as LoadImage gives it."""
        array = np.ascontiguousarray(self.voxels.transpose(2, 1, 0))
        return MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(geometry.swap_lps_ras(self.affine)))

    def for_itk(self) -> SimpleITK.Image:
        return _itk_image(self.voxels, self.affine)


@dataclass(frozen=True)
class Task:
    """One task for every library: which scan onto which grid. ``steps(dtype, lazy)`` is MONAI's chain."""

    name: str
    scan: Scan
    steps: Callable[[torch.dtype, bool], list]
    options: dict | None  # of ResampleToGrid, where it can express the same task

    def grid_ras(self) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
        """Affine (from MONAI's array index to RAS) and shape of MONAI's output."""
        placed = self.scan.for_monai()
        for step in self.steps(torch.float64, True):
            placed = step(placed)
        x, y, z = (int(n) for n in placed.peek_pending_shape())
        return placed.peek_pending_affine().numpy(), (x, y, z)


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(arguments.threads)
    warnings.simplefilter("ignore")
    plain = _from_file(arguments.scan) if arguments.scan else phantom(arguments.seed)
    print(_machine(plain, arguments), end="\n\n")
    found = {task.name: compare(task, arguments.repeats) for task in tasks(plain) if arguments.only in task.name}
    print(*_table_of_times(found), "", *_table_of_errors(found), sep="\n")
    if not arguments.only:
        print("\n| library | detail kept: error | too fine for the grid: left over | both |\n|---|---|---|---|")
        print(*aliasing(arguments.seed), sep="\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, help="a CT instead of the phantom: DICOM folder, NIfTI, NRRD, MetaImage")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch and ITK; set OMP_NUM_THREADS too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only tasks whose name contains this text")
    return parser.parse_args()


# What is resampled -------------------------------------------------------------------------------------------------


def phantom(seed: int, shape: tuple[int, int, int] = (200, 512, 512)) -> Scan:
    """A trunk with lungs, vessel texture and noise, 0.7 x 0.7 x 1.25 mm."""
    random = np.random.default_rng(seed)
    depth, height, width = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    z, y, x = depth[:, None, None], height[:, None], width
    voxels = np.full(shape, -1000, np.float32)
    body = (x / 0.9) ** 2 + (y / 0.65) ** 2 + 0 * z < 1
    voxels[body] = 40
    for side in (-1, 1):
        voxels[((x - side * 0.42) / 0.3) ** 2 + (y / 0.45) ** 2 + (z / 0.9) ** 2 < 1] = -850
    coarse = random.normal(0, 120, [n // 4 for n in shape]).astype(np.float32)
    texture = np.asarray(ndimage.zoom(coarse, [n / (n // 4) for n in shape], order=1))
    voxels += np.where(body, texture, 0)
    voxels += random.standard_normal(shape, np.float32) * 20
    affine = np.diag([0.7, 0.7, 1.25, 1.0])
    affine[:3, 3] = [-179, -179, -125]
    return Scan(np.rint(voxels).astype(np.int16), affine)


def _from_file(path: Path) -> Scan:
    volume = read_scan(path)
    return Scan(np.ascontiguousarray(volume.voxels, np.int16), volume.affine)


def turned(scan: Scan, linear: NDArray[np.float64]) -> Scan:
    """The same voxels in a patient in another position: the affine's linear part is multiplied from the left."""
    affine = scan.affine.copy()
    affine[:3, :3] = linear @ affine[:3, :3]
    return Scan(scan.voxels, affine)


def tasks(plain: Scan) -> list[Task]:
    oblique = turned(plain, Rotation.from_euler("xyz", [12, 9, -20], degrees=True).as_matrix())
    tilt = np.eye(3)
    tilt[1, 2] = np.tan(np.radians(15))
    sheared = turned(plain, tilt)
    found = [
        Task("axis-aligned, 1.5 mm", plain, _spaced(diagonal=False), {"orientation": "RAS", "spacing_mm": SPACING_MM}),
        Task("oblique, 1.5 mm", oblique, _spaced(diagonal=True), None),
        Task("sheared, 1.5 mm", sheared, _spaced(diagonal=False), {"orientation": "RAS", "spacing_mm": SPACING_MM}),
    ]
    for n in (96, 128):
        fitted = {"orientation": "RAS", "shape": (n, n, n)}
        found.append(Task(f"axis-aligned, {n}³", plain, _fitted(n), fitted))
        found += [
            Task(f"{name}, {n}³", scan, _onto_box(scan, n), None)
            for name, scan in (("oblique", oblique), ("sheared", sheared))
        ]
    return found


def _spaced(*, diagonal: bool) -> Callable[[torch.dtype, bool], list]:
    return lambda dtype, lazy: [
        Orientation("RAS", labels=None, lazy=lazy),
        Spacing(SPACING_MM, diagonal=diagonal, mode="bilinear", dtype=dtype, lazy=lazy),  # type: ignore[arg-type]
    ]


def _fitted(n: int) -> Callable[[torch.dtype, bool], list]:
    return lambda dtype, lazy: [
        Orientation("RAS", labels=None, lazy=lazy),
        Resize((n, n, n), mode="trilinear", dtype=dtype, lazy=lazy),  # type: ignore[arg-type]
    ]


def _onto_box(scan: Scan, n: int) -> Callable[[torch.dtype, bool], list]:
    """n x n x n voxels over the patient-aligned box around the scan."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * np.array(scan.voxels.shape[::-1]) - 0.5
    points = geometry.to_world_mm(geometry.swap_lps_ras(scan.affine), corners)
    size = np.ptp(points, axis=0) / n
    affine = np.diag([*size, 1.0])
    affine[:3, 3] = points.min(axis=0) + size / 2

    def steps(dtype: torch.dtype, lazy: bool) -> list:
        to_box = SpatialResample(mode="bilinear", padding_mode="border", align_corners=True, dtype=dtype, lazy=lazy)  # type: ignore[arg-type]
        target, shape = torch.from_numpy(affine), (n, n, n)
        return [Orientation("RAS", labels=None, lazy=lazy), lambda image: to_box(image, target, shape)]

    return steps


# Who resamples -----------------------------------------------------------------------------------------------------


def libraries(task: Task) -> dict[str, Callable[[], NDArray[np.float32]]]:
    """A call without arguments per library that returns [i, j, k] of MONAI's output; inputs are made beforehand."""
    affine_ras, shape = task.grid_ras()
    image, window = task.scan.for_monai(), ScaleIntensityRange(*WINDOW_HU, 0.0, 1.0, clip=True)
    affine = geometry.swap_lps_ras(affine_ras)
    grid = Grid(affine, (shape[2], shape[1], shape[0]))
    itk, subject = task.scan.for_itk(), torchio.ScalarImage(tensor=image.as_tensor(), affine=image.affine.numpy())
    found = {
        OURS: lambda: _ours(task.scan, grid, antialias=True),
        "ours, without low-pass": lambda: _ours(task.scan, grid, antialias=False),
        REFERENCE: lambda: _monai(image, [*task.steps(torch.float64, False), window], lazy=False),
        "MONAI eager, float32": lambda: _monai(image, [*task.steps(torch.float32, False), window], lazy=False),
        "MONAI lazy": lambda: _monai(image, [*task.steps(torch.float64, True), window], lazy=True),
        "TorchIO": lambda: _torchio(subject, affine_ras, shape),
        "SimpleITK": lambda: _simpleitk(itk, affine, shape),
    }
    if task.options:
        mine = Compose([ResampleToGrid(**task.options), window])
        found["ours as MONAI transform"] = lambda: np.asarray(mine(image)[0])
    if "box" in task.steps.__qualname__:
        del found["MONAI lazy"]  # SpatialResample needs its affine at the call; one step gains nothing from laziness
    return found


def _ours(scan: Scan, grid: Grid, *, antialias: bool) -> NDArray[np.float32]:
    voxels = resample(scan.voxels, scan.affine, grid, antialias=antialias)
    apply_window(voxels, WINDOW_HU, (0.0, 1.0))
    return voxels.transpose(2, 1, 0)


def _monai(image: MetaTensor, steps: list, *, lazy: bool) -> NDArray[np.float32]:
    result = image
    if lazy:
        return np.asarray(Compose(steps, lazy=True)(image)[0])
    for step in steps:
        result = step(result)
    return result[0].numpy()


def _torchio(image: torchio.ScalarImage, affine_ras: NDArray, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    low, high = WINDOW_HU
    resampled = torchio.Resample((shape, affine_ras))(image)
    return torchio.RescaleIntensity((0, 1), in_min_max=WINDOW_HU)(torchio.Clamp(low, high)(resampled)).data[0].numpy()


def _simpleitk(image: SimpleITK.Image, affine: geometry.Affine, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    spacing = np.array(geometry.spacing_mm(affine))
    resampled = SimpleITK.Resample(
        image,
        list(shape),
        SimpleITK.Transform(),
        SimpleITK.sitkLinear,
        affine[:3, 3].tolist(),
        spacing.tolist(),
        (affine[:3, :3] / spacing).ravel().tolist(),
        WINDOW_HU[0],
        SimpleITK.sitkFloat32,
    )
    windowed = SimpleITK.IntensityWindowing(resampled, *WINDOW_HU, 0.0, 1.0)
    return SimpleITK.GetArrayFromImage(windowed).transpose(2, 1, 0)


def _itk_image(voxels: NDArray, affine: geometry.Affine) -> SimpleITK.Image:
    image, spacing = SimpleITK.GetImageFromArray(voxels), np.array(geometry.spacing_mm(affine))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image


# What is measured --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Results for one library and task; errors are relative to the window's width."""

    ms: float
    error_inside: float
    error_everywhere: float
    extra_memory_mb: float  # NaN where unavailable


def compare(task: Task, repeats: int) -> dict[str, Measured]:
    calls = libraries(task)
    affine_ras, shape = task.grid_ras()
    inside = _inside(task.scan, Grid(geometry.swap_lps_ras(affine_ras), (shape[2], shape[1], shape[0])))
    reference = calls[REFERENCE]()
    errors: dict[str, tuple[float, float]] = {}
    memory: dict[str, float] = {}
    for name, call in calls.items():
        memory[name], result = _with_memory(call)
        difference = np.abs(result - reference)
        errors[name] = float(difference[inside].max()), float(difference.max())
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return {name: Measured(1000 * statistics.median(seconds[name]), *errors[name], memory[name]) for name in calls}


def _table_of_times(found: dict[str, dict[str, Measured]]) -> list[str]:
    """Milliseconds of each library for each task."""
    names = max(found.values(), key=len)
    rows = [[f"{one[name].ms:.0f}" if name in one else "" for one in found.values()] for name in names]
    return _table(["ms", *found], [[name, *row] for name, row in zip(names, rows, strict=True)])


def _table_of_errors(found: dict[str, dict[str, Measured]]) -> list[str]:
    """The worst over all tasks, and the range of a library's speed-up over the reference."""
    rows = []
    for name in max(found.values(), key=len):
        mine = {task: one[name] for task, one in found.items() if name in one}
        faster = [found[task][REFERENCE].ms / one.ms for task, one in mine.items()]
        inside, everywhere, memory = np.max(
            [(one.error_inside, one.error_everywhere, one.extra_memory_mb) for one in mine.values()], axis=0
        )
        rows.append([name, f"{min(faster):.1f} to {max(faster):.1f}", f"{inside:.0e}", f"{everywhere:.0e}"])
        rows[-1].append(f"{memory:.0f}")
    return _table(["library", "times faster", "error inside", "error everywhere", "extra memory, MB"], rows)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(line) + " |" for line in (head, *rows)]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def _inside(scan: Scan, grid: Grid) -> NDArray[np.bool_]:
    """[i, j, k] of the output: which voxels lie inside the scan."""
    where = index_map(scan.affine, grid)
    along = [np.arange(n) for n in grid.shape]
    inside = np.ones(grid.shape, bool)
    for row, start, count in zip(where.matrix, where.offset, scan.voxels.shape, strict=True):
        index = start + row[0] * along[0][:, None, None] + row[1] * along[1][:, None] + row[2] * along[2]
        inside &= (index > 1e-6) & (index < count - 1 - 1e-6)
    return inside.transpose(2, 1, 0)


def _with_memory(call: Callable[[], NDArray]) -> tuple[float, NDArray]:
    """Rise of the peak resident memory during a call, in MB; NaN except on Linux."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return float("nan"), call()
    reset.write_text("5")  # resets the peak
    before = _kilobytes(status, "VmHWM")
    result = call()
    return (_kilobytes(status, "VmHWM") - before) / 1024, result


def _kilobytes(status: Path, key: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key))


def aliasing(seed: int) -> list[str]:
    """Waves that the output grid can represent, and waves that it cannot, each sampled exactly on the scan's grid.

    The ideal result is known: the former are unchanged, the latter vanish. Amplitudes fall with frequency.
    """
    shape, affine = (72, 160, 160), np.diag([0.7, 0.7, 1.25, 1.0])
    out_shape = (48, 64, 64)
    grid = Grid(geometry.grid_affine("SPL", SPACING_MM, geometry.centre_mm(affine, shape), out_shape), out_shape)
    random = np.random.default_rng(seed)
    frequency = random.uniform(-0.5, 0.5, (400, 3)) / np.array(
        [0.7, 0.7, 1.25]
    )  # cycles per mm, up to the scan's Nyquist frequency
    keeps = (np.abs(frequency) < 0.5 / np.array(SPACING_MM)).all(axis=1)
    fine = {True: _waves(frequency[keeps], shape, affine), False: _waves(frequency[~keeps], shape, affine)}
    ideal = _waves(frequency[keeps], grid.shape, grid.affine)
    size = np.sqrt(np.mean(ideal**2))
    rows = []
    for name, call in _float_libraries(affine, grid).items():
        kept, left = (call(fine[True]) - ideal)[4:-4, 4:-4, 4:-4], call(fine[False])[4:-4, 4:-4, 4:-4]
        shares = [np.sqrt(np.mean(values**2)) / size for values in (kept, left, kept + left)]
        rows.append(f"| {name} | {shares[0]:.1%} | {shares[1]:.1%} | {shares[2]:.1%} |")
    return rows


def _float_libraries(affine: geometry.Affine, grid: Grid) -> dict[str, Callable[[NDArray], NDArray]]:
    in_ras, out_ras = (torch.from_numpy(_array_affine_ras(a)) for a in (affine, grid.affine))
    spatial = SpatialResample(mode="bilinear", padding_mode="border")
    to_grid = torchio.Resample((grid.shape, out_ras.numpy()))

    def itk(voxels: NDArray) -> NDArray:
        reference = _itk_image(np.zeros(grid.shape, np.float32), grid.affine)
        return SimpleITK.GetArrayFromImage(SimpleITK.Resample(_itk_image(voxels, affine), reference))

    return {
        OURS: lambda voxels: resample(voxels, affine, grid),
        "ours, without low-pass": lambda voxels: resample(voxels, affine, grid, antialias=False),
        "MONAI": lambda voxels: spatial(MetaTensor(torch.from_numpy(voxels)[None], affine=in_ras), out_ras, grid.shape)[
            0
        ].numpy(),
        "TorchIO": lambda voxels: (
            to_grid(torchio.ScalarImage(tensor=torch.from_numpy(voxels)[None], affine=in_ras.numpy())).data[0].numpy()
        ),
        "SimpleITK": itk,
    }


def _array_affine_ras(affine: geometry.Affine) -> NDArray[np.float64]:
    """Array index (k, j, i) to RAS mm."""
    return geometry.swap_lps_ras(affine)[:, [2, 1, 0, 3]]


def _waves(frequency: NDArray[np.float64], shape: tuple[int, int, int], affine: geometry.Affine) -> NDArray[np.float32]:
    """Sum of cosines at the voxels of an axis-aligned grid, [depth, height, width]; phases depend on the frequency."""
    depth, height, width = (
        np.exp(2j * np.pi * np.outer(affine[axis, axis] * np.arange(n) + affine[axis, 3], frequency[:, axis]))
        for axis, n in zip((2, 1, 0), shape, strict=True)
    )
    amplitude = 1 / np.linalg.norm(frequency, axis=1) * np.exp(1j * 1000 * frequency.sum(axis=1))
    in_plane = np.einsum("jw,iw->jiw", height, width).reshape(-1, len(frequency))
    return ((depth * amplitude) @ in_plane.T).real.reshape(shape).astype(np.float32)


def _machine(scan: Scan, arguments: argparse.Namespace) -> str:
    cpuinfo = Path("/proc/cpuinfo")
    model = platform.processor()
    if cpuinfo.exists():
        model = next((x.split(":")[1].strip() for x in cpuinfo.read_text().splitlines() if "model name" in x), model)
    packages = ("torch", "monai", "torchio", "SimpleITK", "numpy", "scipy")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return (
        f"`{command}`: {model}, {os.cpu_count()} cores, {arguments.threads} thread(s), load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, {versions}; scan {'x'.join(map(str, scan.voxels.shape))} int16, "
        f"{' x '.join(f'{mm:.2f}' for mm in reversed(geometry.spacing_mm(scan.affine)))} mm; "
        f"median of {arguments.repeats}."
    )


if __name__ == "__main__":
    main()
