"""Lesions of any organ painted into slabs of whole scans, with masks of the voxels made denser and lighter.

A lesion is added to the scan, ``hu + share * (target - smooth)``, so that the scan's own noise and kernel remain and a
lesion cannot be recognised by its texture. It lies in the tissue of a random voxel, that is, in everything of about the
same density, so that no organ needs to be known. Its form is a blob, a rim around a core, a crescent along the wall of
the tissue, a filling of darker spaces in it, or a diffuse haze. Painted tumours as labels: Hu et al. 2023,
arXiv:2303.14869.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from med_transfer.backbones.networks.lesion_answers import KINDS
from med_transfer.pretraining.painting.brush import RandomNumbers, inside, position_mm, wide
from med_transfer.pretraining.view_config import Form, LesionConfig

FORMS: tuple[Form, ...] = get_args(Form)
_GRAIN_MM = 2.0  # standard deviation of the smoothing that removes noise
_BESIDE_HU = 60.0  # margin around the densities of tissue, for noise and its darkest and brightest parts
_SEEN_HU = 3.0  # voxels changed by less are not in the mask
_STRIDE = 3  # in plane, between the voxels that a lesion's centre is drawn from
_SLICE_PROFILE = (0.2, 0.6, 0.2)  # for thick slices: the end of a lesion is spread over neighbouring slices


@dataclass(frozen=True)
class Lesions:
    """What was painted into a batch of slabs.

    Attributes:
        mask: 1 where a voxel was made denser or lighter, in the order of ``KINDS``, [batch, 2, depth, height, width].
    """

    mask: Tensor

    @property
    def present(self) -> Tensor:
        """Whether each kind is present in a slab, bool [batch, 2]."""
        return self.mask.flatten(2).any(dim=2)


@dataclass(frozen=True)
class _Slabs:
    """Slabs to paint into: HU and smoothed HU [batch, 1, depth, height, width], and their extent in mm [batch, 3]."""

    hu: Tensor
    smooth: Tensor
    size_mm: Tensor

    def of(self, chosen: Tensor) -> _Slabs:
        return _Slabs(self.hu[chosen], self.smooth[chosen], self.size_mm[chosen])

    @property
    def voxel_mm(self) -> Tensor:
        """Voxel size in mm, [batch, 3]."""
        return self.size_mm / torch.tensor(self.hu.shape[2:], device=self.hu.device)


@dataclass(frozen=True)
class _Place:
    """Where lesions lie: centres in mm from the slab's centre [batch, 3], HU of the tissue there [batch], its mask."""

    middle_mm: Tensor
    tissue_hu: Tensor
    tissue: Tensor


class LesionPainter:
    """Paints up to ``config.lesions`` lesions into each slab; resumable from the state of its generator."""

    def __init__(self, config: LesionConfig, device: torch.device, seed: int) -> None:
        self.config, self.draws = config, RandomNumbers(device, seed)
        self.forms = {"blob": self._blob, "rim": self._rim, "crescent": self._crescent}
        self.forms |= {"filling": self._filling, "haze": self._haze}

    @property
    def random(self) -> torch.Generator:
        """The generator that determines what is painted."""
        return self.draws.random

    def __call__(self, hu: Tensor, size_mm: Tensor) -> tuple[Tensor, Lesions]:
        """Paint lesions into a copy of the slabs; returns it, and where the lesions are.

        Args:
            hu: [batch, 1, depth, height, width].
            size_mm: extent along depth, height, width, [batch, 3].
        """
        slabs = _Slabs(hu, _smooth(hu, size_mm, self.config.tissue_hu), size_mm)
        painted, mask = hu.clone(), torch.zeros(len(hu), len(KINDS), *hu.shape[2:], device=hu.device)
        some = self.draws.share(len(hu)) < self.config.painted
        for _ in range(self.config.lesions):
            form = torch.bucketize(self.draws.share(len(hu)), self._shares(hu.device))
            now = some & (self.draws.share(len(hu)) < 0.6)
            for number, name in enumerate(FORMS):
                chosen = (now & (form == number)).nonzero()[:, 0]
                if len(chosen):
                    change = self._lesion(slabs.of(chosen), name)
                    painted[chosen] += change
                    mask[chosen] = torch.maximum(mask[chosen], torch.cat([change, -change], dim=1).gt(_SEEN_HU).float())
        return painted, Lesions(mask)

    def _shares(self, device: torch.device) -> Tensor:
        shares = torch.tensor([self.config.forms.get(name, 0.0) for name in FORMS], device=device).cumsum(0)
        return shares[:-1] / shares[-1]

    def _lesion(self, slabs: _Slabs, form: str) -> Tensor:
        """The change in HU [batch, 1, depth, height, width] made by a lesion of this form; zero without tissue."""
        n, draws = len(slabs.hu), self.draws
        place = self._place(slabs, at_wall=form == "crescent")
        share = _spread_over_slices(self.forms[form](slabs, place), slabs.voxel_mm)
        lighter = (draws.share(n) < self.config.lighter) & torch.tensor(form != "filling", device=slabs.hu.device)
        contrast = torch.where(
            lighter, -draws.uniform(*self.config.lighter_hu, n), draws.uniform(*self.config.denser_hu, n)
        )
        uneven = wide(draws.uniform(0, 0.2, n)) * draws.field(slabs.hu, (3, 16, 16))
        target = wide(place.tissue_hu) + wide(contrast) * (1 + uneven)
        change = share * place.tissue * (target - slabs.smooth)
        return torch.where(wide(lighter), change.clamp_max(0), change.clamp_min(0))

    def _place(self, slabs: _Slabs, *, at_wall: bool) -> _Place:
        """A random voxel of tissue in each slab, near its wall if asked for, and all tissue of about its density."""
        low, high = self.config.tissue_hu
        possible = (slabs.smooth > low) & (slabs.smooth < high)
        if at_wall:
            possible = possible & (_depth_mm(possible, slabs.voxel_mm, 4.0) < 4.0)
        coarse = possible[:, 0, :, ::_STRIDE, ::_STRIDE]
        drawn = (coarse.flatten(1) * (0.5 + self.draws.share(len(coarse), coarse[0].numel()))).argmax(dim=1)
        _, height, width = coarse.shape[1:]
        index = torch.stack([drawn // (height * width), drawn // width % height * _STRIDE, drawn % width * _STRIDE], 1)
        value = slabs.smooth[torch.arange(len(index)), 0, index[:, 0], index[:, 1], index[:, 2]]
        tissue = ((slabs.smooth - wide(value)).abs() < self.config.tissue_range_hu).float()
        tissue = tissue * wide(coarse.flatten(1).any(dim=1).float())  # without a place there is no lesion
        return _Place((index + 0.5) * slabs.voxel_mm - slabs.size_mm / 2, value, tissue)

    def _ball(self, slabs: _Slabs, place: _Place, radius_mm: tuple[float, float], bumps: float = 0.6) -> Tensor:
        """Signed distance in mm to a bumpy ellipsoid around the place, negative inside, [batch, 1, *space]."""
        n = len(slabs.hu)
        radius = wide(self.draws.log_uniform(*radius_mm, n))
        position = position_mm(slabs.hu, slabs.size_mm) - place.middle_mm[:, :, None, None, None]
        stretch = self.draws.uniform(0.7, 1.4, n, 3)[:, :, None, None, None]
        distance = (position * stretch).square().sum(1, keepdim=True).sqrt()
        rough = self.draws.field(slabs.hu, (3, 12, 12)) + 0.5 * self.draws.field(slabs.hu, (4, 28, 28))
        return distance - radius * (1 + wide(self.draws.uniform(0, bumps, n)) * rough)

    def _edge(self) -> float:
        return float(self.draws.uniform(0.6, 2.5, 1))

    def _blob(self, slabs: _Slabs, place: _Place) -> Tensor:
        return inside(self._ball(slabs, place, self.config.radius_mm), self._edge())

    def _rim(self, slabs: _Slabs, place: _Place) -> Tensor:
        distance = self._ball(slabs, place, (2 * self.config.radius_mm[0], self.config.radius_mm[1]))
        thickness = float(self.draws.uniform(1.5, 5.0, 1))
        return inside(distance, self._edge()) - inside(distance + thickness, self._edge())

    def _crescent(self, slabs: _Slabs, place: _Place) -> Tensor:
        """A crescent, thickest at the place and thinner along the wall, with a smooth inner side."""
        around = inside(self._ball(slabs, place, self.config.extent_mm, bumps=0.3), 20.0)
        depth = _depth_mm(place.tissue > 0.5, slabs.voxel_mm, self.config.thickness_mm[1] + 2)
        thickness = wide(self.draws.log_uniform(*self.config.thickness_mm, len(slabs.hu))) * around
        return inside(depth - thickness, 1.0) * (around > 0.05)

    def _filling(self, slabs: _Slabs, place: _Place) -> Tensor:
        """A filling of enclosed spaces that are darker than the tissue, such as a brain's ventricles and sulci."""
        around = inside(self._ball(slabs, place, self.config.extent_mm, bumps=0.4), 4.0)
        return around * torch.sigmoid((wide(place.tissue_hu) - 10 - slabs.smooth) / 2)

    def _haze(self, slabs: _Slabs, place: _Place) -> Tensor:
        around = inside(self._ball(slabs, place, self.config.extent_mm), 6.0)
        return 0.6 * around * torch.sigmoid(6 * self.draws.field(slabs.hu, (3, 20, 20)))


def _smooth(hu: Tensor, size_mm: Tensor, tissue_hu: tuple[float, float]) -> Tensor:
    """In-plane mean over voxels of about tissue density, so that bone and air nearby do not blur into it."""
    low, high = tissue_hu
    tissue = ((hu > low - _BESIDE_HU) & (hu < high + _BESIDE_HU)).float()
    share = _blurred(tissue, size_mm)
    return torch.where(tissue * share > 0.2, _blurred(hu * tissue, size_mm) / share.clamp_min(0.2), hu)


def _blurred(x: Tensor, size_mm: Tensor) -> Tensor:
    """In-plane blur by two box filters, close to a Gaussian of ``_GRAIN_MM``."""
    sigma = _GRAIN_MM / float((size_mm[:, 2] / x.shape[4]).mean())
    reach = max(1, round((math.sqrt(6 * sigma**2 + 1) - 1) / 2))
    for _ in range(2):
        x = F.avg_pool3d(F.pad(x, (reach, reach, reach, reach, 0, 0), mode="replicate"), (1, *[2 * reach + 1] * 2), 1)
    return x


def _depth_mm(tissue: Tensor, voxel_mm: Tensor, most_mm: float) -> Tensor:
    """In-plane distance to the outside of the tissue, in mm up to about ``most_mm``, with octagons as circles.

    Computed on every second voxel, which is as precise as a lesion's edge.
    """
    outside = F.max_pool3d(1.0 - tissue.float(), (1, 2, 2), ceil_mode=True)
    step = 2 * float(voxel_mm[:, 1:].mean())
    depth = torch.zeros_like(outside)
    for ring in range(max(1, math.ceil(most_mm / step))):
        depth = depth + (1 - outside) * step
        cross = torch.maximum(
            F.max_pool3d(outside, (1, 3, 1), 1, (0, 1, 0)), F.max_pool3d(outside, (1, 1, 3), 1, (0, 0, 1))
        )
        outside = cross if ring % 2 else F.max_pool3d(outside, (1, 3, 3), 1, (0, 1, 1))
    return F.interpolate(depth, tissue.shape[2:], mode="trilinear", align_corners=False)


def _spread_over_slices(share: Tensor, voxel_mm: Tensor) -> Tensor:
    if share.shape[2] < 2 or float(voxel_mm[:, 0].mean()) < 2 * _GRAIN_MM:
        return share
    kernel = share.new_tensor(_SLICE_PROFILE)[None, None, :, None, None]
    return F.conv3d(F.pad(share, (0, 0, 0, 0, 1, 1), mode="replicate"), kernel)
