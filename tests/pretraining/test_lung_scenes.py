"""Painted lung and nodules are where they should be and have the right densities."""

from __future__ import annotations

import torch

from med_transfer.pretraining import LungSceneConfig
from med_transfer.pretraining.painting.lung_scenes import LungScenes, fat_to_lung
from med_transfer.pretraining.source.crops import Crops

CPU = torch.device("cpu")


def crops(hu: float, lung: bool, count: int = 12) -> Crops:
    noise = torch.Generator().manual_seed(0)
    voxels = hu + 20 * torch.randn((count, 1, 16, 32, 32), generator=noise)
    number, centre_mm = torch.zeros(count, dtype=torch.long), torch.zeros(count, 3)
    return Crops(voxels, torch.full((count, 3), 40.0), torch.full((count,), lung), number, centre_mm)


def test_nodules_are_denser_than_lung_and_near_the_middle():
    config = LungSceneConfig(lung=0, nodule=(1.0, 0.0), radius_mm=(3, 8))
    before = crops(-850, lung=True)
    after = LungScenes(config, CPU, seed=0)(before)
    change = after - before.hu
    assert change.min() >= 0
    changed = (change > 40).float()
    volume = changed.mean((1, 2, 3, 4)) * 40**3
    assert (volume > 50).all()
    assert (volume < 8000).all()
    assert changed[:, :, 4:12, 8:24, 8:24].sum() > 0.8 * changed.sum()


def test_switched_off_nothing_changes():
    before = crops(40, lung=False)
    off = LungSceneConfig(lung=0, nodule=(0.0, 0.0))
    assert torch.equal(LungScenes(off, CPU, seed=0)(before), before.hu)


def test_tissue_becomes_mostly_lung():
    config = LungSceneConfig(lung=1, plain=1, pleura=0, vessels=2, nodule=(0.0, 0.0))
    after = LungScenes(config, CPU, seed=0)(crops(40, lung=False))
    assert -1000 < float(after.median()) < -700


def test_the_same_seed_paints_the_same():
    config = LungSceneConfig(lung=0.5, nodule=(0.5, 0.5))
    first, second = (LungScenes(config, CPU, seed=4)(crops(-100, lung=False)) for _ in range(2))
    assert torch.equal(first, second)


def test_fat_becomes_lung_and_bright_tissue_stays_above_it():
    hu = torch.full((1, 1, 8, 16, 16), -100.0)
    hu[..., 8:] = 60.0
    one = torch.ones(1)
    after = fat_to_lung(hu, -850 * one, 20 * one, 0.9 * one, one)
    torch.testing.assert_close(after[..., :8], torch.full_like(after[..., :8], -850.0))
    torch.testing.assert_close(after[..., 8:], torch.full_like(after[..., 8:], 20.0))
    steps = torch.linspace(-200, 300, 50).reshape(1, 1, 1, 1, 50)
    mixed = torch.cat([hu, steps.expand(1, 1, 8, 16, 50)], dim=-1)
    graded = fat_to_lung(mixed, -850 * one, 20 * one, 0.9 * one, 2 * one)[0, 0, 0, 0, 16:]
    assert (graded.diff() >= 0).all()


def test_fat_beside_air_becomes_lung_too():
    """Air is darker than any fat: taken for the darkest tissue, it would leave the fat where it was."""
    hu = torch.full((1, 1, 8, 16, 64), -100.0)
    hu[..., :16], hu[..., 48:] = -1000.0, 60.0
    one = torch.ones(1)
    after = fat_to_lung(hu, -850 * one, 20 * one, 0.9 * one, one)[0, 0, 0, 0]
    assert (after[:16] == -850).all()
    assert (after[16:48] < -600).all()
    torch.testing.assert_close(after[48:], torch.full((16,), 20.0))
