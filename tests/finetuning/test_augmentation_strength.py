"""How far each field changes a view, at several strengths: never beyond its stated limit, and nearly up to it.

The views are of an image whose three channels are the voxels' own coordinates, so that a view shows where each of its
voxels came from; or of grey values whose change can be undone.
"""

import numpy as np
import pytest
import torch
from augmentation_parts import OFF
from scipy import ndimage

from med_transfer.finetuning.augmentation import EachChannel, augmentation, margin_voxels
from med_transfer.finetuning.config import AugmentationConfig

SHAPE = (16, 20, 24)
STRENGTHS = pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])


def views(image: torch.Tensor, n: int, strength: float, *, shape=SHAPE, span=(-1.0, 1.0), **fields) -> list[np.ndarray]:
    """Draws with these fields alone, those left out in which nothing was changed."""
    config = AugmentationConfig.model_validate(OFF | {"strength": strength} | fields)
    draw = augmentation(config, shape, span)
    draw.set_random_state(3)
    plain = np.asarray(augmentation(AugmentationConfig(strength=0), shape, span)(image.clone()))
    drawn = [np.asarray(draw(image.clone())) for _ in range(n)]
    return [view for view in drawn if not np.allclose(view, plain, atol=1e-6)]


def coordinates() -> torch.Tensor:
    sides = [torch.arange(n + 2 * m) - (n + 2 * m - 1) / 2 for n, m in zip(SHAPE, margin_voxels(SHAPE), strict=True)]
    return torch.stack(torch.meshgrid(*sides, indexing="ij")).float()


def jacobian(view: np.ndarray) -> np.ndarray:
    """[channel, axis] at the middle: how fast each coordinate of the source changes along each axis of the view."""
    middle = tuple(slice(n // 2 - 2, n // 2 + 2) for n in SHAPE)
    return np.array([[np.gradient(view[c], axis=axis)[middle].mean() for axis in range(3)] for c in range(3)])


def reaches(found: list[float], limit: float) -> bool:
    """No further than the limit, and with so many draws at least most of the way."""
    return max(found) <= limit * (1 + 1e-3) and max(found) >= 0.8 * limit


@STRENGTHS
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_turns(strength, axis):
    degrees = [0.0, 0.0, 0.0]
    degrees[axis] = 12.0
    found = []
    for view in views(coordinates(), 40, strength, rotation_degrees=tuple(degrees)):
        turn = jacobian(view)
        one, other = (k for k in range(3) if k != axis)
        found.append(abs(np.degrees(np.arctan2(turn[one, other], turn[one, one]))))
        np.testing.assert_allclose(turn[axis], np.eye(3)[axis], atol=1e-4)
    assert reaches(found, 12 * strength)


@STRENGTHS
def test_sizes(strength):
    sizes = [np.diag(jacobian(view)) for view in views(coordinates(), 40, strength, scale=0.1)]
    for axis in range(3):
        assert reaches([abs(size[axis] - 1) for size in sizes], 0.1 * strength)
    assert any(abs(size - size.mean()).max() > 0.02 * strength for size in sizes)  # each axis by itself


@STRENGTHS
def test_shifts(strength):
    moved = [view[:, 8, 10, 12] - 0.5 for view in views(coordinates(), 40, strength, translation=0.05)]
    for axis, side in enumerate(SHAPE):
        assert reaches([abs(one[axis]) for one in moved], 0.05 * strength * side)


@STRENGTHS
def test_bends(strength):
    """Cells take other shares of the side, each no more than its limit; no plane is there twice, and the ends stay."""
    bent = views(coordinates(), 60, strength, elastic=1.0, elastic_size=0.1)
    limit, whole = 0.1 * strength, np.array(SHAPE) + 2 * np.array(margin_voxels(SHAPE))
    shortest, longest = (
        (1 - limit) / (1 + limit),
        (1 + limit) / (1 - limit),
    )  # where all the other cells go the other way
    steps = [np.diff(view[axis], axis=axis) for view in bent for axis in range(3)]
    assert min(step.min() for step in steps) >= shortest - 1e-4
    assert max(step.max() for step in steps) <= longest + 1e-4
    assert max(step.max() for step in steps) >= 1 + 0.8 * limit
    assert min(step.min() for step in steps) <= 1 - 0.6 * limit
    for axis, side in enumerate(whole):
        furthest = max(float(abs(view[axis]).max()) for view in bent)
        assert furthest <= (side - 1) / 2  # nothing from beyond the image


@pytest.mark.parametrize(("strength", "strongest"), [(0.5, 0.9), (1.0, 0.8), (2.0, 0.6), (3.0, 0.4)])
def test_resolution(strength, strongest):
    config = AugmentationConfig.model_validate(OFF | {"strength": strength, "low_resolution": 0.8})
    (step,) = (one for one in augmentation(config, SHAPE, (-1.0, 1.0)).transforms if isinstance(one, EachChannel))
    assert step.step.zoom_range == pytest.approx((strongest, 1.0))


def grey(seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 20, 26, 30, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@STRENGTHS
def test_brightness(strength):
    image = grey()
    plain = image[:, 2:-2, 3:-3, 3:-3].numpy()
    shifts = [view - plain for view in views(image, 120, strength, intensity_shift=0.05)]
    assert all(np.ptp(shift) < 1e-5 for shift in shifts)
    assert reaches([abs(shift.mean()) for shift in shifts], 0.05 * strength * 2)  # the range is 2 wide
    factors = [(view / plain).mean() - 1 for view in views(image, 120, strength, intensity_scale=0.1)]
    assert reaches([abs(factor) for factor in factors], 0.1 * strength)


@STRENGTHS
def test_gamma(strength):
    image = grey()
    plain = image[:, 2:-2, 3:-3, 3:-3].numpy()
    exponents = []
    for view in views(image, 200, strength, gamma=0.25):
        before, after = ((values - plain.min()) / np.ptp(plain) for values in (plain, view))
        inner = (before > 0.2) & (before < 0.8)
        exponents.append(float(np.median(np.log(after[inner]) / np.log(before[inner]))))
    most = 1 + 0.25 * strength
    assert max(exponents) <= most * 1.001
    assert max(exponents) >= 1 + 0.8 * (most - 1)
    assert min(exponents) >= 0.999 / most
    assert min(exponents) <= 1 - 0.7 * (1 - 1 / most)


@STRENGTHS
def test_noise(strength):
    image = grey()
    plain = image[:, 2:-2, 3:-3, 3:-3].numpy()
    found = [float((view - plain).std()) for view in views(image, 200, strength, noise=0.04)]
    limit = 0.04 * strength * 2
    assert 0.8 * limit <= max(found) <= 1.05 * limit


@STRENGTHS
def test_blur(strength):
    """A single bright voxel becomes as wide as sigma says; its filter's steps add a twelfth to the variance."""
    image = -torch.ones(1, 20, 26, 30)
    image[0, 10, 13, 15] = 1.0
    found = []
    for view in views(image, 200, strength, blur_voxels=0.9):
        along = (view[0] + 1).sum(axis=(0, 1))
        place = np.arange(len(along))
        middle = (along * place).sum() / along.sum()
        found.append(float(np.sqrt(max(0.0, (along * (place - middle) ** 2).sum() / along.sum() - 1 / 12))))
    assert 0.8 * 0.9 * strength <= max(found) <= 1.1 * max(0.3, 0.9 * strength)


def test_holes_are_one_to_three():
    drawn = views(torch.full_like(grey(), 0.5), 60, 1.0, dropout=1.0, dropout_size=0.2)
    assert {ndimage.label(view[0] < -0.5)[1] for view in drawn} == {1, 2, 3}


def test_holes_are_no_larger_than_their_share():
    image = torch.ones(1, 20, 26, 30)
    view = min(views(image, 60, 1.0, dropout=1.0, dropout_size=0.25), key=lambda view: float(view.mean()))
    empty = view[0] == -1.0
    assert empty.any()
    assert (view[0][~empty] == 1.0).all()
    for one in views(image, 60, 1.0, dropout=1.0, dropout_size=0.25):
        assert (one == -1.0).mean() <= 3 * 0.25**3 + 1e-9  # at most three


@pytest.mark.parametrize(("shape", "size"), [((4, 20, 24), 0.25), ((1, 20, 24), 0.25), (SHAPE, 0.01)])
def test_a_hole_in_a_thin_input_or_of_a_small_share_is_a_voxel_deep(shape, size):
    sides = [n + 2 * m for n, m in zip(shape, margin_voxels(shape), strict=True)]
    found = [one == -1.0 for one in views(torch.ones(1, *sides), 30, 1.0, shape=shape, dropout=1.0, dropout_size=size)]
    assert len(found) == 30
    largest = np.prod([max(1, int(n * size)) for n in shape])
    assert all(0 < empty.sum() <= 3 * largest for empty in found)


def test_holes_of_no_size_are_none():
    assert views(torch.ones(1, 20, 26, 30), 5, 1.0, dropout=1.0, dropout_size=0.0) == []
