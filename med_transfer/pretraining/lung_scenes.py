"""Synthetic lung and nodules painted into crops of real scans, in Hounsfield units, on the device.

Unlabelled scans of limbs and bellies are easy to come by, chests with findings are not. Fat crossed by vessels and
fasciae has the build of lung crossed by vessels; so in a share of the crops the range of fat is stretched down
to that of lung, a chest wall and some vessels are added, and nodules of every size, density and outline are put in.
The teacher sees the same picture, so its answer is the label: nothing here says what a nodule means.

Densities: Hansell et al. 2008, Radiology 246:697 (ground glass: vessels stay visible; part-solid: a solid core).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from med_transfer.pretraining.crops import Crops
from med_transfer.pretraining.view_config import LungSceneConfig

_FAT_HU = -150.0  # what is darker than fat is air
_CHUNK = 32  # crops painted at once; bounds the memory of the intermediate fields


class LungScenes:
    """Paints; the state of its generator makes a resumed run go on with the same pictures."""

    def __init__(self, config: LungSceneConfig, device: torch.device, seed: int) -> None:
        self.config, self.device = config, device
        self.random = torch.Generator(device).manual_seed(seed)

    def __call__(self, crops: Crops) -> Tensor:
        """HU [batch, 1, depth, height, width] with scenes painted in; ``crops`` is left as it is."""
        made = ~crops.lung & (self._share(len(crops.hu)) < self.config.lung)
        chance = torch.where(made | crops.lung, *self.config.nodule)
        nodule = self._share(len(crops.hu)) < chance
        hu = crops.hu.clone()
        for part in made.nonzero()[:, 0].split(_CHUNK):
            hu[part] = self._lung(hu[part], crops.size_mm[part])
        for part in nodule.nonzero()[:, 0].split(_CHUNK):
            hu[part] = self._nodule(hu[part], crops.size_mm[part])
        return hu

    def _lung(self, hu: Tensor, size_mm: Tensor) -> Tensor:
        n = len(hu)
        position = _position_mm(hu, size_mm)
        plain = self._share(n) < self.config.plain
        hu = torch.where(_wide(plain), self._parenchyma(hu), self._from_fat(hu))
        for _ in range(self.config.vessels):
            radius = self._between(0.4, 2.2, n)
            distance = _distance_to_line(position, self._offset(size_mm), self._direction(n))
            hu = _blend(hu, _inside(distance - radius[:, None, None, None, None], 0.5), self._between(-50, 80, n))
        wall = (position * self._direction(n)[:, :, None, None, None]).sum(1, keepdim=True)
        depth = torch.where(self._share(n) < self.config.pleura, self._between(0.1, 0.8, n) * size_mm.amin(1) / 2, 1e6)
        return _blend(hu, _inside(depth[:, None, None, None, None] - wall, 0.7), self._between(-80, 80, n))

    def _from_fat(self, hu: Tensor) -> Tensor:
        n = len(hu)
        return fat_to_lung(
            hu,
            lung_hu=self._between(-920, -780, n),
            solid_hu=self._between(-20, 60, n),
            share=self._between(0.6, 0.98, n),
            power=self._between(1, 3, n),
        )

    def _parenchyma(self, hu: Tensor) -> Tensor:
        n = len(hu)
        noise = torch.randn(hu.shape, generator=self.random, device=self.device)
        grain = F.avg_pool3d(noise, 3, stride=1, padding=1) * 3
        cloud = _wide(self._between(5, 60, n)) * self._field(hu, (6, 12, 12))
        return _wide(self._between(-930, -780, n)) + cloud + _wide(self._between(10, 60, n)) * grain

    def _nodule(self, hu: Tensor, size_mm: Tensor) -> Tensor:
        """One nodule near the middle: solid, ground glass or part-solid, smooth or spiculated, sometimes calcified."""
        n = len(hu)
        low, high = self.config.radius_mm
        radius = torch.minimum(low * (high / low) ** self._share(n), 0.4 * size_mm.amin(1))
        position = _position_mm(hu, size_mm) - (0.15 * self._offset(size_mm))[:, :, None, None, None]
        stretch = self._between(0.75, 1.33, n, 3)
        distance = (position * stretch[:, :, None, None, None]).square().sum(1, keepdim=True).sqrt()
        uneven = 0.45 * self._share(n) * radius
        surface = (
            _wide(radius)
            + _wide(uneven) * self._field(hu, (4, 8, 8))
            + _wide(0.4 * uneven) * self._field(hu, (12, 24, 24))
        )
        mask = _inside(distance - surface, 0.6)
        kind = self._share(n)
        density = torch.where(kind < 0.45, self._between(-60, 90, n), self._between(-750, -350, n))
        density = torch.where(kind > 0.93, self._between(150, 700, n), density)
        texture = _wide(self._between(5, 80, n)) * self._field(hu, (8, 16, 16))
        painted = _blend(hu, mask, density, texture)
        core = torch.where((kind > 0.65) & (kind < 0.93), self._between(0.3, 0.75, n) * radius, -1e6)
        painted = _blend(
            painted, _inside(distance - _wide(core) - (surface - _wide(radius)), 0.6), self._between(-60, 60, n)
        )
        return torch.maximum(hu, painted)  # lung gets denser: vessels stay visible in ground glass

    def _share(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.random, device=self.device)

    def _between(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * self._share(*shape)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random, device=self.device)

    def _direction(self, n: int) -> Tensor:
        return F.normalize(self._normal(n, 3), dim=1)

    def _offset(self, size_mm: Tensor) -> Tensor:
        """A point of the crop, mm from its middle along depth, height, width."""
        return (self._share(*size_mm.shape) - 0.5) * size_mm

    def _field(self, like: Tensor, cells: tuple[int, int, int]) -> Tensor:
        """A smooth random field of standard deviation about 0.5 with so many cells along each axis."""
        return F.interpolate(self._normal(len(like), 1, *cells), like.shape[2:], mode="trilinear", align_corners=False)


def fat_to_lung(hu: Tensor, lung_hu: Tensor, solid_hu: Tensor, share: Tensor, power: Tensor) -> Tensor:
    """Stretch the darkest ``share`` of the tissue of each crop from lung to solid; what is brighter stays solid.

    Air around the body becomes lung as well, and the skin its pleura.

    Args:
        hu: [batch, 1, depth, height, width].
        lung_hu, solid_hu: the values that the darkest tissue, and tissue at the quantile ``share``, get; [batch].
        share: [batch] in (0, 1).
        power: [batch]; above 1, more of the tissue becomes lung.
    """
    sample = hu[:, 0, ::4, ::8, ::8].flatten(1).clamp_min(_FAT_HU).sort(dim=1).values
    places = (share * (sample.shape[1] - 1)).long()
    low, high = sample[:, sample.shape[1] // 20], sample.gather(1, places[:, None])[:, 0]
    high = torch.maximum(high, low + 120)  # uniform tissue must not become pure noise
    grade = ((hu - _wide(low)) / _wide(high - low)).clamp(0, 1) ** _wide(power)
    return _wide(lung_hu) + grade * _wide(solid_hu - lung_hu) + (hu - _wide(high)).clamp_min(0)


def _wide(x: Tensor) -> Tensor:
    return x[:, None, None, None, None]


def _position_mm(hu: Tensor, size_mm: Tensor) -> Tensor:
    """Millimetres from the crop's middle along depth, height, width: [batch, 3, depth, height, width]."""
    steps = [(torch.arange(n, device=hu.device) + 0.5) / n - 0.5 for n in hu.shape[2:]]
    return torch.stack(torch.meshgrid(*steps, indexing="ij"))[None] * size_mm[:, :, None, None, None]


def _distance_to_line(position: Tensor, point: Tensor, direction: Tensor) -> Tensor:
    offset = position - point[:, :, None, None, None]
    direction = direction[:, :, None, None, None]
    along = (offset * direction).sum(1, keepdim=True)
    return (offset - along * direction).square().sum(1, keepdim=True).sqrt()


def _inside(signed_distance_mm: Tensor, edge_mm: float) -> Tensor:
    """1 inside (negative distance), 0 outside, with an edge as soft as a scanner's."""
    return torch.sigmoid(-signed_distance_mm * (2 / edge_mm))


def _blend(hu: Tensor, mask: Tensor, value_hu: Tensor, texture: Tensor | float = 0.0) -> Tensor:
    return hu + mask * (_wide(value_hu) + texture - hu)
