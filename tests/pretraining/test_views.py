"""Teacher's and student's views show the same spot of the patient, each in its own convention."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from med_transfer.backbones import find_backbone
from med_transfer.pretraining import ViewConfig
from med_transfer.pretraining.source.views import CROP_ORIENTATION, Degradation, reduce, reorient, thick_slices, window
from med_transfer.scans import geometry

CPU = torch.device("cpu")
ORIENTATIONS = ["".join(p) for letters in itertools.product("RL", "AP", "IS") for p in itertools.permutations(letters)]


@pytest.mark.parametrize("target", ORIENTATIONS)
def test_reorient_agrees_with_the_affine(target):
    """A landmark keeps its patient coordinates; geometry.grid_affine is the independent statement of the axes."""
    shape, spacing, landmark = (6, 8, 10), (3.0, 2.0, 1.0), (1, 5, 8)
    volume = torch.zeros(1, 1, *shape)
    volume[0, 0][landmark] = 1
    centre = (10.0, -20.0, 30.0)
    before = geometry.grid_affine("SPL", spacing, centre, shape)
    moved = reorient(volume, "SPL", target)
    order = ["SPL".index(next(s for s in "SPL" if s in pair)) for pair in (geometry_pair(t) for t in target)]
    after = geometry.grid_affine(target, tuple(spacing[i] for i in order), centre, tuple(moved.shape[2:]))
    found = tuple(int(i) for i in moved[0, 0].nonzero()[0])
    np.testing.assert_allclose(
        geometry.to_world_mm(after, found[::-1]), geometry.to_world_mm(before, landmark[::-1]), atol=1e-9
    )
    assert torch.equal(reorient(moved, target, "SPL"), volume)


def geometry_pair(letter: str) -> str:
    return next(pair for pair in ("RL", "AP", "IS") if letter in pair)


def test_a_landmark_lies_at_the_same_spot_for_teacher_and_student():
    """Astra's axes are S, R, A; the student's S, P, L, on a grid half as fine in plane."""
    hu = torch.full((1, 1, 32, 64, 64), -1000.0)
    hu[0, 0, 5, 20:22, 50:52] = 1000.0
    teacher_axes = find_backbone("astra").input.orientation
    teacher = window(reorient(hu, CROP_ORIENTATION, teacher_axes), (-1000, 200), (0, 1))
    student = reduce(window(hu, (-1000, 1000), (-1, 1)), (32, 32, 32))
    assert teacher_axes == "SRA"
    superior, posterior, left = student[0, 0].eq(1).nonzero()[0].tolist()
    assert (superior, posterior, left) == (5, 10, 25)
    seen = teacher[0, 0].eq(1).nonzero().float().mean(0)  # superior, right, anterior
    right, anterior = (seen[1:] + 0.5) / 64
    assert seen[0] == superior
    assert float(anterior) == pytest.approx(1 - (posterior + 0.5) / 32)
    assert float(right) == pytest.approx(1 - (left + 0.5) / 32)


def test_window_clips_and_maps():
    hu = torch.tensor([-2000.0, -1000.0, -400.0, 200.0, 3000.0])
    torch.testing.assert_close(window(hu, (-1000, 200), (0, 1)), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))


def test_thick_slices_leave_alone_what_does_not_change_along_depth():
    x = torch.rand(2, 1, 12, 6, 6)

    constant_along_depth = x[:, :, :1].expand(-1, -1, 12, -1, -1)
    torch.testing.assert_close(thick_slices(constant_along_depth, 4), constant_along_depth)


def test_degradation_stays_in_range_and_switched_off_changes_nothing():
    x = torch.rand(8, 1, 16, 16, 16) * 2 - 1
    worse = Degradation(ViewConfig(), CPU, seed=0)(x, (-1.0, 1.0))
    assert worse.shape == x.shape
    assert worse.min() >= -1
    assert worse.max() <= 1
    assert not torch.equal(worse, x)
    off = ViewConfig(thick_slices=0, blur=0, shift=0, scale=0, gamma=0, noise=0)
    torch.testing.assert_close(Degradation(off, CPU, seed=0)(x, (-1.0, 1.0)), x.clamp_min(-1 + 2e-4))


def in_units_of_the_range(degradation: Degradation, x: torch.Tensor) -> torch.Tensor:
    return degradation(x, (0.0, 1.0))


def in_hounsfield(degradation: Degradation, x: torch.Tensor) -> torch.Tensor:
    return (degradation.hounsfield(x * 800 - 600, (-600, 200)) + 600) / 800


BOTH = pytest.mark.parametrize("degraded", [in_units_of_the_range, in_hounsfield])


@BOTH
def test_half_of_the_views_get_noise_of_up_to_the_stated_standard_deviation(degraded):
    """Its standard deviation is drawn from -0.1 to 0.1 of the range, below 0 is none: evenly from 0 to 0.1 in half."""
    only_noise = ViewConfig(thick_slices=0, blur=0, shift=0, scale=0, gamma=0, noise=0.1)
    deviation = degraded(Degradation(only_noise, CPU, seed=0), torch.full((400, 1, 6, 6, 6), 0.5)).flatten(1).std(1)
    noisy = deviation[deviation > 1e-4]
    assert len(noisy) / 400 == pytest.approx(0.5, abs=0.1)
    assert noisy.mean() == pytest.approx(0.05, abs=0.01)
    assert 0.09 < noisy.max() < 0.12


@BOTH
def test_its_own_seed_alone_says_how_a_view_is_made_worse(degraded):
    """Of a run that goes on, so are the views; whatever else has drawn random numbers."""
    x = torch.rand(8, 1, 8, 8, 8)
    views = []
    for elsewhere in (0, 1):
        torch.manual_seed(elsewhere)
        views.append(degraded(Degradation(ViewConfig(), CPU, seed=3), x))
    assert torch.equal(*views)


@BOTH
def test_brightness_changes_evenly_by_at_most_what_is_said(degraded):
    nothing = {"thick_slices": 0, "blur": 0, "shift": 0, "scale": 0, "gamma": 0, "noise": 0}
    x, shares = torch.full((400, 1, 2, 2, 2), 0.5), [0.0, 0.25, 0.5, 0.75, 1.0]
    for change, least, most in (({"shift": 0.2}, 0.3, 0.7), ({"scale": 0.4}, 0.3, 0.7)):
        seen = degraded(Degradation(ViewConfig(**nothing | change), CPU, seed=0), x)
        np.testing.assert_allclose(np.quantile(seen.mean((1, 2, 3, 4)), shares), np.linspace(least, most, 5), atol=0.03)


def test_gamma_is_even_as_a_logarithm():
    nothing = {"thick_slices": 0, "blur": 0, "shift": 0, "scale": 0, "noise": 0}
    seen = Degradation(ViewConfig(**nothing, gamma=0.5), CPU, seed=0)(torch.full((400, 1, 2, 2, 2), 0.5), (0.0, 1.0))
    gamma = np.log(np.log(seen.mean((1, 2, 3, 4)).numpy()) / np.log(0.5))
    np.testing.assert_allclose(np.quantile(gamma, [0, 0.25, 0.5, 0.75, 1]), np.linspace(-0.5, 0.5, 5), atol=0.08)


@BOTH
def test_so_many_views_are_blurred_in_plane_and_so_many_have_thick_slices(degraded):
    """Told by what varies along one axis alone: a blur leaves depth, thick slices leave the plane as it is."""
    nothing = {"thick_slices": 0, "blur": 0, "shift": 0, "scale": 0, "gamma": 0, "noise": 0}
    stripes = (torch.arange(12) % 2).float()
    for name, share, axis in (("blur", 0.5, 4), ("thick_slices", 0.6, 2)):
        one = Degradation(ViewConfig(**nothing | {name: share}), CPU, seed=0)
        for along in (2, 3, 4):
            x = 0.25 + 0.5 * stripes.reshape([12 if n == along else 1 for n in range(5)]).expand(100, 1, 12, 12, 12)
            changed = (degraded(one, x) - x).abs().amax((1, 2, 3, 4)) > 0.05
            most = share if along == axis or (axis, along) == (4, 3) else 0.0  # strong and weak changes may meet in one
            assert 0.7 * most <= changed.float().mean() <= most + 1e-6
