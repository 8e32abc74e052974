"""LIDC nodule crops as one array: read once, split by patient, subsampled, augmented.

LIDC-IDRI (TCIA, CC BY 3.0; Armato et al. 2011, Med Phys 38:915). Labels are radiologists' ratings, not pathology.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from med_transfer.pretraining.source.crops import rotation_matrices
from med_transfer.pretraining.source.views import thick_slices

STORED, SEEN = 40, 32  # voxels of 1 mm per side: stored for augmentation, and input of a network
TASKS = {"texture": ("ground-glass", "part-solid", "solid"), "malignancy": ("low", "indeterminate", "high")}
HELD_OUT = 0.4  # share of the patients
TUNING = 0.2  # share of the patients used to choose settings and steps; no split tests or trains on them
TUNING_SEED = 2026


@dataclass(frozen=True)
class Crops:
    """All crops: HU [case, 40, 40, 40] (S, P, L; 1 mm), features [case, feature], patients, labels per task."""

    images: np.ndarray
    features: np.ndarray
    diameter_mm: np.ndarray
    patients: np.ndarray
    labels: dict[str, np.ndarray]


def prepare(data: Path, path: Path) -> None:
    """Read crops and masks, resample the crops to 1 mm around their centres (edges repeated), write one small file."""
    import pandas as pd

    from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
    from med_transfer.scans import read_scan

    table = pd.read_csv(data / "lidc_nodules" / "labels.csv")
    to_cube = Preprocessing(
        PreprocessingConfig(
            spacing_mm=(1.0, 1.0, 1.0),
            shape=(STORED, STORED, STORED),
            window_hu=(-1024, 3071),
            output_range=(-1024, 3071),
        )
    )
    images, features = [], []
    for names in zip(table["scan"], table["mask"], strict=True):
        scan, mask = (read_scan(data / "lidc_nodules" / str(name)) for name in names)
        images.append(np.rint(to_cube(scan)[0].numpy()).astype(np.int16))
        features.append(handcrafted_features(scan.voxels, mask.voxels > 0, scan.spacing_mm[::-1]))
    arrays = {f"label_{task}": table[task].map(names.index).to_numpy(np.int8) for task, names in TASKS.items()}
    patients = pd.factorize(table["patient"])[0].astype(np.int16)  # numbers, not identifiers
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        images=np.stack(images),
        features=np.array(features, dtype=np.float32),
        diameter_mm=table["diameter_mm"].to_numpy(np.float32),
        patients=patients,
        **arrays,  # type: ignore[arg-type]
    )
    print(f"{path}: {len(images)} crops of {patients.max() + 1} patients, {path.stat().st_size / 2**20:.1f} MiB")


def handcrafted_features(hu: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, ...]) -> list[float]:
    """Size, shape and first-order intensity of a nodule and of the shell around it."""
    if not mask.any():
        mask = np.zeros_like(mask)
        mask[tuple(n // 2 for n in mask.shape)] = True
    inside = hu[mask].astype(np.float64)
    volume = mask.sum() * math.prod(spacing_mm)
    extent = [np.ptp(np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {a})))) * spacing_mm[a] for a in range(3)]
    shell = ndimage.binary_dilation(mask, iterations=2) & ~mask
    around = hu[shell].astype(np.float64) if shell.any() else inside
    core = np.asarray(ndimage.binary_erosion(mask), dtype=bool)
    centre = hu[core].astype(np.float64) if core.any() else inside
    surface = mask.sum() - core.sum()
    return [
        volume,
        volume ** (1 / 3),
        *extent,
        surface / mask.sum(),
        inside.mean(),
        inside.std(),
        *np.percentile(inside, [5, 25, 50, 75, 95]),
        (inside < -300).mean(),
        (inside > 0).mean(),
        (inside > 150).mean(),
        around.mean(),
        around.std(),
        centre.mean(),
        centre.mean() - around.mean(),
    ]


def load(path: Path) -> Crops:
    with np.load(path) as file:
        labels = {task: file[f"label_{task}"].astype(np.int64) for task in TASKS}
        return Crops(file["images"], file["features"], file["diameter_mm"], file["patients"], labels)


def split(crops: Crops, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training cases and test cases."""
    patients = np.unique(crops.patients)
    held_out = np.random.default_rng(seed).permutation(patients)[: round(HELD_OUT * len(patients))]
    test = np.isin(crops.patients, held_out)
    return np.flatnonzero(~test), np.flatnonzero(test)


def split_apart(crops: Crops, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training, tuning and test cases, with rare textures balanced; the tuning patients are the same for every seed.

    A random split would occasionally leave seven part-solid nodules for tuning.
    """
    rarity = np.argsort(np.argsort(np.bincount(crops.labels["texture"])))[crops.labels["texture"]]
    order = np.random.default_rng(TUNING_SEED)
    training, tuning, test = [], [], []
    for stratum in range(len(TASKS["texture"])):
        patients = [p for p in np.unique(crops.patients) if rarity[crops.patients == p].min() == stratum]
        apart, others = np.split(order.permutation(patients), [round(TUNING * len(patients))])
        others = np.random.default_rng((seed, stratum)).permutation(others)
        held_out, rest = np.split(others, [round(HELD_OUT * len(others))])
        tuning, test, training = [*tuning, *apart], [*test, *held_out], [*training, *rest]
    return tuple(np.flatnonzero(np.isin(crops.patients, part)) for part in (training, tuning, test))  # type: ignore[return-value]


def few(crops: Crops, task: str, n: int, training: np.ndarray, seed: int) -> np.ndarray:
    """``n`` training cases of each class, or all available (0: all); smaller n is a subset of larger n."""
    random = np.random.default_rng((seed, 7))
    truth = crops.labels[task]
    drawn = [random.permutation(training[truth[training] == c]) for c in range(len(TASKS[task]))]
    return np.concatenate([cases[: n or len(cases)] for cases in drawn])


def augmented(hu: Tensor, random: torch.Generator) -> Tensor:
    """A random view [batch, 1, 32, 32, 32] of stored cubes [batch, 1, 40, 40, 40], in a single interpolation."""
    n, device = len(hu), hu.device

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(shape, generator=random, device=device) - 1

    mirror = torch.where(uniform(n, 3) > 0, 1.0, -1.0)
    axes = rotation_matrices(uniform(n, 3) * math.radians(30)) * (mirror * (1 + 0.15 * uniform(n, 3)))[:, None, :]
    steps = (torch.arange(SEEN, device=device) + 0.5) / STORED * 2 - SEEN / STORED
    local = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(1, -1, 3)
    grid = (local @ axes.transpose(1, 2) + (uniform(n, 3) * 3 * 2 / STORED)[:, None]).flip(-1)
    x = F.grid_sample(hu, grid.reshape(n, SEEN, SEEN, SEEN, 3), padding_mode="border", align_corners=False)
    thick = torch.randperm(n, generator=random, device=device)[: n // 4]
    x = x.index_copy(0, thick, thick_slices(x[thick], 2))
    x = (x + 1000) * (1 + 0.1 * uniform(n, 1, 1, 1, 1)) - 1000 + 40 * uniform(n, 1, 1, 1, 1)
    noise = torch.randn(x.shape, generator=random, device=device)
    return x + noise * (60 * uniform(n, 1, 1, 1, 1)).clamp_min(0)


def centre(hu: Tensor) -> Tensor:
    edge = (STORED - SEEN) // 2
    return hu[..., edge:-edge, edge:-edge, edge:-edge]


def balanced(truth: np.ndarray, batch: int, choose: np.random.Generator) -> np.ndarray:
    """Positions of a batch with every class equally often."""
    classes = np.arange(batch) % (truth.max() + 1)
    return np.array([choose.choice(np.flatnonzero(truth == c)) for c in classes])
