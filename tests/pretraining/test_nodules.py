"""The nodules reported are those that were painted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from med_transfer.pretraining import LungSceneConfig
from med_transfer.pretraining.painting.lung_scenes import LungScenes
from med_transfer.pretraining.painting.nodules import FACTS, KINDS, Nodules
from med_transfer.pretraining.source.crops import Crops

CPU = torch.device("cpu")
EDGE_MM = 40.0
NEVER = 1e-9


def lung(count: int = 16) -> Crops:
    noise = torch.Generator().manual_seed(0)
    hu = -850 + 20 * torch.randn((count, 1, 24, 24, 24), generator=noise)
    number, centre_mm = torch.zeros(count, dtype=torch.long), torch.zeros(count, 3)
    return Crops(hu, torch.full((count, 3), EDGE_MM), torch.ones(count, dtype=torch.bool), number, centre_mm)


def painted(kind: str | None = None, nodule: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, Nodules]:
    kinds = tuple(1.0 if kind in (None, name) else NEVER for name in KINDS[1:])
    config = LungSceneConfig(lung=0, nodule=(nodule, 0.0), radius_mm=(4, 9), kinds=kinds)
    return LungScenes(config, CPU, seed).with_nodules(lung())


def fact(nodules: Nodules, name: str) -> np.ndarray:
    return nodules.facts[:, FACTS.index(name)].numpy()


def test_the_mask_is_where_the_picture_changed_and_the_size_is_its_own():
    before, (after, nodules) = lung().hu, painted("solid")
    changed = (after - before).numpy() > 300
    for one, mask, size in zip(changed[:, 0], nodules.mask[:, 0].numpy(), fact(nodules, "size"), strict=True):
        assert (one & (mask < 0.3)).sum() == 0
        assert (~one & (mask > 0.9)).sum() <= 0.02 * one.sum()
        labels, _ = ndimage.label(mask > 0.5)
        largest = np.bincount(labels.ravel())[1:].max()
        assert largest > 0.9 * (mask > 0.5).sum()  # one nodule
        radius = (3 / (4 * math.pi) * (mask > 0.5).mean()) ** (1 / 3)  # of the ball of equal volume, in edges
        assert math.exp(size) == pytest.approx(radius, rel=0.1)
        assert 2 / EDGE_MM < radius < 14 / EDGE_MM


def test_radii_are_log_uniform_and_at_most_so_large_a_share_of_the_crop():
    """By the balls of equal volume; bumps and stretching change few of them by much."""
    config = LungSceneConfig(lung=0, nodule=(1.0, 0.0), radius_mm=(2, 12), kinds=(1.0, NEVER, NEVER, NEVER))
    _, nodules = LungScenes(config, CPU, seed=0).with_nodules(lung(128))
    radius_mm, shares = EDGE_MM * np.exp(fact(nodules, "size")), np.array([0.1, 0.5, 0.9])
    np.testing.assert_allclose(np.quantile(radius_mm, shares), 2 * (12 / 2) ** shares, rtol=0.25)
    huge = config.model_copy(update={"radius_mm": (80.0, 90.0)})
    _, nodules = LungScenes(huge, CPU, seed=0).with_nodules(lung(32))
    np.testing.assert_allclose(EDGE_MM * np.median(np.exp(fact(nodules, "size"))), 0.4 * EDGE_MM, rtol=0.15)


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("solid", -250, 120), ("ground glass", -850, -300), ("calcified", 30, 800)]
)
def test_each_kind_has_its_density(kind, low, high):
    after, nodules = painted(kind)
    assert (nodules.kind == KINDS.index(kind)).all()
    inside = [float(hu[mask > 0.95].mean()) for hu, mask in zip(after, nodules.mask, strict=True)]
    assert low < min(inside)
    assert max(inside) < high
    assert np.corrcoef(fact(nodules, "density"), inside)[0, 1] > 0.6  # the fact counts the soft edge too
    assert (fact(nodules, "solid share") == (0 if kind == "ground glass" else 1)).all()
    assert (fact(nodules, "core") == (0 if kind == "ground glass" else 1)).all()


def test_a_part_solid_nodule_has_a_dense_core_in_a_thin_shell():
    after, nodules = painted("part-solid")
    shell = (nodules.mask > 0.95) & (nodules.solid < 0.05)
    core = nodules.solid > 0.95
    for hu, here, there in zip(after, shell, core, strict=True):
        if here.sum() > 20 and there.sum() > 5:
            assert hu[there].mean() > hu[here].mean() + 200
    assert (nodules.solid <= nodules.mask + 1e-6).all()
    assert (fact(nodules, "solid share") > 0).all()
    core_share, solid_share = fact(nodules, "core"), fact(nodules, "solid share")
    assert np.corrcoef(core_share**3, solid_share)[0, 1] > 0.8  # the volume goes with the cube of the radius


def test_where_nothing_is_painted_nothing_is_said():
    after, nodules = painted(nodule=0.5)
    without = ~nodules.present
    assert 0 < int(without.sum()) < len(after)
    assert torch.equal(after[without], lung().hu[without])
    for part in (nodules.mask, nodules.solid, nodules.facts):
        assert part[without].abs().max() == 0
    assert (nodules.mask[nodules.present].amax((1, 2, 3, 4)) > 0.9).all()


def test_what_leaves_no_trace_is_no_nodule():
    """Ground glass in soft tissue: the denser of both is shown."""
    config = LungSceneConfig(lung=0, nodule=(1.0, 1.0), radius_mm=(4, 9), kinds=(NEVER, 1.0, NEVER, NEVER))
    tissue = lung()
    tissue.hu[:8] += 900
    after, nodules = LungScenes(config, CPU, seed=0).with_nodules(tissue)
    assert nodules.present.tolist() == [False] * 8 + [True] * 8
    torch.testing.assert_close(after[:8], tissue.hu[:8])
    for part in (nodules.mask, nodules.solid, nodules.facts):
        assert not part[:8].any()


def test_kinds_come_as_often_as_asked_for():
    config = LungSceneConfig(lung=0, nodule=(1.0, 0.0), kinds=(0.2, 0.1, 0.6, 0.1))
    scenes = LungScenes(config, CPU, seed=1)
    found = torch.cat([scenes.with_nodules(lung(32))[1].kind for _ in range(12)])
    shares = torch.bincount(found, minlength=len(KINDS)) / len(found)
    np.testing.assert_allclose(shares.numpy(), [0, 0.2, 0.1, 0.6, 0.1], atol=0.07)
