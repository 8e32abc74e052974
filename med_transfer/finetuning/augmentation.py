"""Heavy augmentation of a prepared scan, composed of MONAI's random transforms.

Prepared training tensors carry a margin around the network's input, so that a rotated or shifted view shows anatomy and
not padding at its border; after the spatial transforms the input is cropped from the centre. Spatial transforms and
dropout are the same in all channels, which show one place. Brightness, contrast, blur and noise are drawn separately
for each channel, since contrast phases and sequences differ in them independently.

Rotations and deformations are done in millimetres: a scan is a MetaTensor whose affine gives its voxel size. The voxels
of a plain tensor are taken to be cubes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.intensity.array import (
    RandAdjustContrast,
    RandCoarseDropout,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandScaleIntensity,
    RandShiftIntensity,
)
from monai.transforms.spatial.array import (
    AffineGrid,
    RandAffine,
    RandAffineGrid,
    RandFlip,
    RandGridDistortion,
    RandSimulateLowResolution,
)
from monai.transforms.transform import Randomizable, RandomizableTransform, Transform
from monai.transforms.utils import create_rotate
from numpy.typing import NDArray
from torch import Tensor

from med_transfer.finetuning.config import AugmentationConfig, Triple

MARGIN = 0.125  # on each side, as a share of the input's size
CELLS = 4  # of the elastic deformation's grid, along the longest side


def margin_voxels(shape: Triple) -> Triple:
    """Extra voxels on both sides of each axis of a training tensor."""
    depth, height, width = (math.ceil(n * MARGIN) for n in shape)
    return depth, height, width


def augmentation(config: AugmentationConfig, shape: Triple, output_range: tuple[float, float]) -> Compose:
    """Transform of [channel, *(shape + margins)] to a random view [channel, *shape]; strength 0 only crops."""
    cut = CentreCrop(shape)
    if config.strength == 0:
        return Compose([cut])
    values = [EachChannel(step) for step in (*_intensity(config, output_range), *_loss_of_detail(config, output_range))]
    return Compose([*_spatial(config, shape), cut, *values, *_holes(config, shape, output_range)])


class CentreCrop(Transform):
    """Centre crop that drops the metadata: no later step reads them, and MONAI's crop spends time on keeping them.

    Args:
        shape: depth, height and width of the crop, at most the image's.
    """

    def __init__(self, shape: Triple) -> None:
        self.shape = shape

    def __call__(self, image: Tensor) -> Tensor:
        """The crop [channel, *shape] of an image [channel, depth, height, width]."""
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        starts = [size // 2 - kept // 2 for size, kept in zip(plain.shape[1:], self.shape, strict=True)]
        inside = [slice(start, start + kept) for start, kept in zip(starts, self.shape, strict=True)]
        return plain[(slice(None), *inside)]


class EachChannel(Randomizable):
    """A random transform of intensities, drawn anew for every channel of [channel, depth, height, width]."""

    def __init__(self, step: RandomizableTransform) -> None:
        self.step, self.R = step, step.R

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> EachChannel:
        """Seed the step; part of MONAI's interface of random transforms."""
        self.step.set_random_state(seed, state)
        self.R = self.step.R
        return self

    def __call__(self, image: Tensor) -> Tensor:
        """Apply the step to each channel of [channel, depth, height, width] separately."""
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        return torch.cat([torch.as_tensor(self.step(channel[None])) for channel in plain])


def _voxel_mm(image: Tensor) -> list[float]:
    """Voxel size along depth, height and width."""
    return [float(size) for size in image.pixdim] if isinstance(image, MetaTensor) else [1.0] * (image.ndim - 1)


class GridInMillimetres(RandAffineGrid):
    """RandAffineGrid that rotates in the patient's space: shapes are kept even if voxels are not cubes."""

    voxel_mm: Sequence[float] = (1.0, 1.0, 1.0)

    def __call__(
        self,
        spatial_size: Sequence[int] | None = None,
        grid: Any = None,
        randomize: bool = True,
        lazy: bool | None = None,
    ) -> Tensor:
        """As RandAffineGrid, for a given grid. Shifts and scales are along the voxel axes and need no correction."""
        super().__call__(grid.shape[1:], randomize=randomize, lazy=True)
        turn = torch.as_tensor(create_rotate(3, self.rotate_params or [0.0] * 3)).double()
        to_mm = torch.diag(torch.tensor([*self.voxel_mm, 1.0])).double()
        self.affine = to_mm.inverse() @ turn @ to_mm @ turn.T @ torch.as_tensor(self.affine).double()
        return torch.as_tensor(AffineGrid(affine=self.affine)(spatial_size, grid)[0])


class RandAffineInMillimetres(RandAffine):
    """RandAffine for scans whose voxels need not be cubes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        plain = self.rand_affine_grid
        self.rand_affine_grid = GridInMillimetres(
            plain.rotate_range, plain.shear_range, plain.translate_range, plain.scale_range
        )

    def __call__(self, img: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As RandAffine."""
        self.rand_affine_grid.voxel_mm = _voxel_mm(img)
        return super().__call__(img, *args, **kwargs)


class RandDistortionInMillimetres(RandGridDistortion):
    """Grid distortion whose cells are about equally long in mm along each axis, with ``CELLS`` along the longest.

    MONAI 1.6's version repeats a plane at each border between cells, stretches by a cell's length more than its limit,
    and shifts the far end out of the image. Here both ends of each axis stay in place.
    """

    def __call__(self, img: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """A randomly distorted view of [channel, depth, height, width], in the same shape."""
        shape = img.shape[1:]
        sides_mm = np.multiply(shape, _voxel_mm(img))
        self.num_cells = tuple(max(1, round(CELLS * side / max(sides_mm))) for side in sides_mm)
        self.randomize(shape)
        if not self._do_transform:
            return img
        steps = [np.asarray(steps[:-1]) for steps in self.distort_steps]  # MONAI draws one more than there are cells
        along = [
            torch.as_tensor(_source_positions(n, lengths)).float() for n, lengths in zip(shape, steps, strict=True)
        ]
        places = torch.meshgrid(*along, indexing="ij")
        return self.grid_distortion.resampler(img, grid=torch.stack([*places, torch.ones_like(places[0])]))


def _source_positions(n: int, lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Source position of each of n voxels along an axis, from its centre, if equal cells get these relative lengths."""
    ends = np.concatenate([[0.0], np.cumsum(lengths)]) * n / lengths.sum()
    return np.interp(np.arange(n) + 0.5, np.linspace(0, n, len(ends)), ends) - n / 2


def _spatial(config: AugmentationConfig, shape: Triple) -> list:
    s = config.strength
    moves = any(config.rotation_degrees) or config.scale or config.translation
    steps: list = [
        RandAffineInMillimetres(
            prob=0.9 if moves else 0.0,  # kept even if it does nothing, so that later random draws stay the same
            rotate_range=[math.radians(min(180.0, s * degrees)) for degrees in config.rotation_degrees],
            scale_range=[min(0.5, s * config.scale)] * 3,
            translate_range=[s * config.translation * n for n in shape],
            mode="bilinear",
            padding_mode="border",
            cache_grid=True,
            spatial_size=tuple(n + 2 * m for n, m in zip(shape, margin_voxels(shape), strict=True)),
        )
    ]
    if config.elastic:
        size = min(0.45, s * config.elastic_size)
        steps.append(RandDistortionInMillimetres(prob=config.elastic, distort_limit=(-size, size)))
    steps += [RandFlip(prob=0.5, spatial_axis=axis) for axis in config.flips]
    return steps


def _intensity(config: AugmentationConfig, output_range: tuple[float, float]) -> list:
    span, s = output_range[1] - output_range[0], config.strength
    steps: list = []
    if config.gamma:
        steps.append(RandAdjustContrast(prob=0.3, gamma=(1 / (1 + s * config.gamma), 1 + s * config.gamma)))
    if config.intensity_scale:
        steps.append(RandScaleIntensity(prob=0.3, factors=s * config.intensity_scale))
    if config.intensity_shift:
        steps.append(RandShiftIntensity(prob=0.3, offsets=s * config.intensity_shift * span))
    return steps


class _Blur(RandGaussianSmooth):
    """Gaussian blur padded with air: MONAI's filter pads with 0, which gives a grey frame where air is -1.

    A crop within the body gets a frame of one or two voxels that is darker, by a tenth of the range on average.
    """

    def __init__(self, air: float, **options: Any) -> None:
        super().__init__(**options)
        self.air = air

    def __call__(self, img: Any, randomize: bool = True) -> Any:
        return super().__call__(img - self.air, randomize=randomize) + self.air


def _loss_of_detail(config: AugmentationConfig, output_range: tuple[float, float]) -> list:
    span, s = output_range[1] - output_range[0], config.strength
    steps: list = []
    if config.blur_voxels:
        sigma = (0.25, max(0.3, s * config.blur_voxels))
        steps.append(_Blur(output_range[0], prob=0.2, sigma_x=sigma, sigma_y=sigma, sigma_z=sigma))
    if config.low_resolution:
        zoom = max(0.2, 1 - s * (1 - config.low_resolution))
        steps.append(RandSimulateLowResolution(prob=0.2, zoom_range=(zoom, 1.0)))
    if config.noise:
        steps.append(RandGaussianNoise(prob=0.3, std=s * config.noise * span))
    return steps


def _holes(config: AugmentationConfig, shape: Triple, output_range: tuple[float, float]) -> list:
    if not config.dropout or not config.dropout_size:
        return []
    hole = tuple(max(1, int(n * config.dropout_size)) for n in shape)
    return [
        RandCoarseDropout(
            holes=1,
            max_holes=3,
            spatial_size=tuple(min(2, n) for n in hole),
            max_spatial_size=hole,
            prob=config.dropout,
            fill_value=output_range[0],
        )
    ]


def mixup(images: Tensor, targets: Tensor, alpha: float, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mix each image and target with another of the batch (Zhang et al. 2018, arXiv:1710.09412).

    Args:
        images: [batch, channel, depth, height, width].
        targets: [batch, class], probabilities.
        alpha: of the symmetric Beta distribution; 0 leaves the batch unchanged.
    """
    if alpha == 0 or len(images) < 2:
        return images, targets
    weight = float(random.beta(alpha, alpha))
    weight = max(weight, 1 - weight)  # each image keeps at least half of the weight
    partner = torch.from_numpy(random.permutation(len(images))).to(images.device)
    return weight * images + (1 - weight) * images[partner], weight * targets + (1 - weight) * targets[partner]
