"""Augmented views: of the right shape, from the margin and not from padding, unchanged at strength 0."""

import numpy as np
import pytest
import torch
from augmentation_parts import ONLY_SPATIAL
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.croppad.array import CenterSpatialCrop

from med_transfer.finetuning.augmentation import CentreCrop, augmentation, margin_voxels, mixup
from med_transfer.finetuning.config import AugmentationConfig

SHAPE = (16, 20, 24)
RANGE = (-1.0, 1.0)


def wide_image(seed: int = 0) -> torch.Tensor:
    shape = [n + 2 * m for n, m in zip(SHAPE, margin_voxels(SHAPE), strict=True)]
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_margin_is_an_eighth_rounded_up():
    assert margin_voxels((16, 20, 24)) == (2, 3, 3)


def test_strength_zero_only_cuts_out_the_middle():
    image = wide_image()
    view = augmentation(AugmentationConfig(strength=0), SHAPE, RANGE)(image)
    torch.testing.assert_close(torch.as_tensor(np.asarray(view)), image[:, 2:-2, 3:-3, 3:-3])


@pytest.mark.parametrize("strength", [0.3, 1.0, 3.0])
def test_views_have_the_input_shape_and_differ(strength):
    views = augmentation(AugmentationConfig(strength=strength, flips=(0, 1, 2)), SHAPE, RANGE)
    views.set_random_state(0)
    image = wide_image()
    first, second = (np.asarray(views(image.clone())) for _ in range(2))
    assert first.shape == second.shape == (1, *SHAPE)
    assert np.isfinite(first).all()
    assert not np.allclose(first, second)


def test_the_same_seed_gives_the_same_views():
    def draw() -> list[np.ndarray]:
        views = augmentation(AugmentationConfig(flips=(2,)), SHAPE, RANGE)
        views.set_random_state(7)
        return [np.asarray(views(wide_image(n))) for n in range(4)]

    for first, second in zip(draw(), draw(), strict=True):
        np.testing.assert_array_equal(first, second)


def spatial(**changes) -> AugmentationConfig:
    still = {"rotation_degrees": (0, 0, 0), "scale": 0, "translation": 0}
    return AugmentationConfig(**(ONLY_SPATIAL | still | changes))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_only_the_allowed_axis_is_mirrored(axis):
    views = augmentation(spatial(flips=(axis,)), SHAPE, RANGE)
    views.set_random_state(3)
    image = wide_image()
    plain = image[:, 2:-2, 3:-3, 3:-3].numpy()
    seen = {"plain": 0, "mirrored": 0}
    for _ in range(20):
        view = np.asarray(views(image.clone()))
        if np.allclose(view, plain, atol=1e-4):
            seen["plain"] += 1
        elif np.allclose(view, np.flip(plain, axis + 1), atol=1e-4):
            seen["mirrored"] += 1
    assert sum(seen.values()) == 20
    assert min(seen.values()) > 2


def test_what_lies_beyond_the_image_is_as_its_border_and_no_grey():
    """Shifts reach far beyond the margin; air stays air."""
    views = augmentation(spatial(strength=3, translation=0.5), SHAPE, RANGE)
    views.set_random_state(0)
    air = torch.full_like(wide_image(), RANGE[0])
    for _ in range(10):
        assert np.asarray(views(air.clone())) == pytest.approx(RANGE[0], abs=1e-5)


@pytest.mark.parametrize("kept", [3, 4])
@pytest.mark.parametrize("size", [8, 9])
def test_the_middle_is_where_monai_cuts_it(size, kept):
    image = torch.arange(float(size))[None, :, None, None].expand(1, size, 5, 5)
    torch.testing.assert_close(CentreCrop((kept, 5, 5))(image), torch.as_tensor(CenterSpatialCrop((kept, 5, 5))(image)))


def test_flips_are_off_by_default_because_left_and_right_differ():
    assert AugmentationConfig().flips == ()
    views = augmentation(spatial(), SHAPE, RANGE)
    image = wide_image()
    for _ in range(10):
        np.testing.assert_allclose(np.asarray(views(image.clone())), image[:, 2:-2, 3:-3, 3:-3].numpy(), atol=1e-4)


def test_translation_shows_anatomy_from_the_margin():
    """A view moved by less than the margin holds no repeated border: its values all occur in the wide image."""
    ramp = torch.arange(30.0).expand(1, 20, 26, 30).clone()
    views = augmentation(spatial(translation=0.08), SHAPE, (0, 30))
    views.set_random_state(0)
    for _ in range(10):
        row = np.asarray(views(ramp.clone()))[0, 8, 10]
        np.testing.assert_allclose(np.diff(row), 1.0, atol=1e-3)


def test_mixup_keeps_the_main_image_and_sums_targets_to_one():
    images = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(4, 1, 2, 2, 2)
    targets = torch.eye(4)
    mixed, soft = mixup(images, targets, 0.4, np.random.default_rng(0))
    torch.testing.assert_close(soft.sum(1), torch.ones(4))
    assert (soft.argmax(1) == torch.arange(4)).all()
    # the image is mixed with the same weight as its target
    torch.testing.assert_close(mixed[:, 0, 0, 0, 0], soft @ torch.arange(4.0))


def test_mixup_mixes_two_and_leaves_one_alone():
    images, targets = torch.rand(2, 1, 2, 2, 2), torch.eye(2)
    mixed = [mixup(images, targets, 0.4, np.random.default_rng(seed))[1] for seed in range(20)]
    assert any(not soft.equal(targets) for soft in mixed)
    assert mixup(images[:1], targets[:1], 0.4, np.random.default_rng(0))[0].equal(images[:1])


def test_mixup_off_changes_nothing():
    images, targets = torch.rand(3, 1, 2, 2, 2), torch.eye(3)
    same, untouched = mixup(images, targets, 0.0, np.random.default_rng(0))
    assert same is images
    assert untouched is targets


def two_channels(config: AugmentationConfig, image: torch.Tensor, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    views = augmentation(config, SHAPE, RANGE)
    views.set_random_state(seed)
    first, second = np.asarray(views(torch.cat([image, image])))
    return first, second


@pytest.mark.parametrize("seed", range(5))
def test_channels_move_together(seed):
    still = {name: 0 for name in ONLY_SPATIAL if name not in ("elastic", "dropout")}
    config = AugmentationConfig(elastic=1, dropout=1, flips=(0, 1, 2), **still)
    first, second = two_channels(config, wide_image(), seed)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("part", ["intensity_shift", "intensity_scale", "gamma", "noise", "blur_voxels"])
def test_values_of_each_channel_change_on_their_own(part):
    strong = {"intensity_shift": 0.5, "intensity_scale": 0.9, "gamma": 0.9, "noise": 0.5, "blur_voxels": 2}
    config = spatial(**{part: strong[part]})
    seen = [two_channels(config, wide_image(), seed) for seed in range(20)]
    assert any(not np.allclose(first, second) for first, second in seen)
    if part != "noise":  # some draws leave one alone and change the other
        plain = wide_image()[0, 2:-2, 3:-3, 3:-3].numpy()
        assert any(np.allclose(a, plain, atol=1e-4) != np.allclose(b, plain, atol=1e-4) for a, b in seen)


def test_one_channel_is_augmented_as_the_plain_transforms_do_it():
    config = spatial(noise=0.3)
    views = augmentation(config, SHAPE, RANGE)
    views.set_random_state(1)
    inner = [step.step for step in views.transforms if hasattr(step, "step")]
    assert len(inner) == 1
    ours = [np.asarray(views(wide_image(n))) for n in range(5)]
    plain = [t for t in augmentation(config, SHAPE, RANGE).transforms if not hasattr(t, "step")]
    chain = Compose([*plain, *inner])
    chain.set_random_state(1)
    for n, view in enumerate(ours):
        np.testing.assert_array_equal(view, np.asarray(chain(wide_image(n))))


def ball(voxel_mm: tuple[float, float, float], shape: tuple[int, int, int], diameter_mm: float) -> MetaTensor:
    """1 within a ball in the middle, falling to 0 over 2 mm, on voxels of this size."""
    centred = (np.arange(n) - (n - 1) / 2 for n in shape)
    axes = np.meshgrid(*(mm * along for mm, along in zip(voxel_mm, centred, strict=True)), indexing="ij")
    inside = np.clip((diameter_mm / 2 - np.linalg.norm(axes, axis=0)) / 2 + 0.5, 0, 1)
    return MetaTensor(torch.from_numpy(inside[None]).float(), affine=torch.diag(torch.tensor([*voxel_mm, 1.0])))


def axes_mm(image: np.ndarray, voxel_mm: tuple[float, float, float]) -> np.ndarray:
    """Lengths of the main axes of what is bright in an image, from its second moments."""
    where = np.stack(np.meshgrid(*(np.arange(n) for n in image.shape), indexing="ij")).reshape(3, -1)
    spread = np.cov(where * np.array(voxel_mm)[:, None], aweights=np.maximum(image.ravel(), 0))
    return 2 * np.sqrt(5 * np.linalg.eigvalsh(spread))


@pytest.mark.parametrize("voxel_mm", [(2.0, 1.0, 1.0), (1.0, 1.0, 1.0), (3.0, 0.8, 0.8)])
def test_what_is_turned_keeps_its_form_whatever_the_voxels(voxel_mm):
    shape = tuple(8 * round(40 / mm / 8) for mm in voxel_mm)
    views = augmentation(spatial(rotation_degrees=(20, 20, 20)), shape, RANGE)
    views.set_random_state(0)
    image = ball(voxel_mm, [n + 2 * m for n, m in zip(shape, margin_voxels(shape), strict=True)], 24)
    plain = axes_mm(image[0].numpy(), voxel_mm)
    for _ in range(20):
        assert axes_mm(np.asarray(views(image))[0], voxel_mm) == pytest.approx(plain, abs=0.8)


def test_stretches_and_bends_are_the_same_in_mm_along_each_axis():
    """A ramp along an axis shows how it was bent: as many bends within as many mm on thick slices as in plane."""
    views = augmentation(spatial(elastic=1), (16, 64, 64), RANGE)

    def bends(voxel_mm: tuple[float, float, float], axis: int) -> int:
        views.set_random_state(3)
        along = torch.arange(80.0 if axis else 20.0).reshape([-1 if n == axis else 1 for n in range(3)])
        image = MetaTensor(along.expand(1, 20, 80, 80).clone(), affine=torch.diag(torch.tensor([*voxel_mm, 1.0])))
        line = np.moveaxis(np.asarray(views(image))[0], axis, 0)[:, 8, 8]
        slopes = np.diff(line)
        return int((np.abs(np.diff(slopes)) > 0.02).sum())

    thick, thin = (4.0, 1.0, 1.0), (1.0, 1.0, 1.0)
    assert bends(thick, 0) >= 2
    assert bends(thin, 0) <= 1
    assert bends(thin, 1) >= 2


def test_a_blurred_view_of_air_is_air_to_its_edges():
    """MONAI's filter takes what lies beyond the image for 0, which was a grey frame."""
    config = AugmentationConfig().model_copy(
        update={"rotation_degrees": (0, 0, 0), "scale": 0, "translation": 0, "elastic": 0, "intensity_shift": 0}
        | {"intensity_scale": 0, "gamma": 0, "noise": 0, "low_resolution": 0, "dropout": 0}
    )
    views = augmentation(config, (12, 12, 12), (-1.0, 1.0))
    views.set_random_state(0)
    margin = margin_voxels((12, 12, 12))
    air = torch.full((1, *(12 + 2 * m for m in margin)), -1.0)
    for _ in range(30):
        torch.testing.assert_close(torch.as_tensor(views(air)), torch.full((1, 12, 12, 12), -1.0), atol=1e-5, rtol=0)
