"""Synthetic lung and nodules painted into crops of real scans, in Hounsfield units, on the device.

Unlabelled scans of limbs and abdomens are easy to obtain, chest scans with findings are not. Fat crossed by vessels and
fasciae resembles lung crossed by vessels. So in a share of the crops the range of fat is stretched down to that of
lung, a chest wall and vessels are added, and nodules of many sizes, densities and outlines are painted. In distillation
the teacher's output on the same image is the target; otherwise it is what was painted (nodules.py). No label of
malignancy is made.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from med_transfer.pretraining.painting.brush import RandomNumbers, blend, distance_to_line, inside, position_mm, wide
from med_transfer.pretraining.painting.nodules import NodulePainter, Nodules
from med_transfer.pretraining.source.crops import Crops
from med_transfer.pretraining.view_config import LungSceneConfig

_FAT_HU = -150.0  # anything darker is air
_CHUNK = 32  # crops painted at once; limits the memory of intermediate fields


class LungScenes:
    """Paints lungs and nodules into crops; a resumed run continues with the same images from its generator's state."""

    def __init__(self, config: LungSceneConfig, device: torch.device, seed: int) -> None:
        self.config, self.draws = config, RandomNumbers(device, seed)
        self.nodules = NodulePainter(config, self.draws)

    @property
    def random(self) -> torch.Generator:
        """The generator that determines what is painted."""
        return self.draws.random

    def __call__(self, crops: Crops) -> Tensor:
        """HU [batch, 1, depth, height, width] with scenes painted in; ``crops`` is not changed."""
        return self.with_nodules(crops)[0]

    def with_nodules(self, crops: Crops) -> tuple[Tensor, Nodules]:
        """As :meth:`__call__`, with the nodules that were painted."""
        made = ~crops.lung & (self.draws.share(len(crops.hu)) < self.config.lung)
        nodule = self.draws.share(len(crops.hu)) < torch.where(made | crops.lung, *self.config.nodule)
        hu, painted = crops.hu.clone(), Nodules.empty(crops.hu)
        for part in made.nonzero()[:, 0].split(_CHUNK):
            hu[part] = self._lung(hu[part], crops.size_mm[part])
        for part in nodule.nonzero()[:, 0].split(_CHUNK):
            hu[part], here = self.nodules(hu[part], crops.size_mm[part])
            painted.put(part, here)
        return hu, painted

    def _lung(self, hu: Tensor, size_mm: Tensor) -> Tensor:
        n = len(hu)
        position = position_mm(hu, size_mm)
        plain = self.draws.share(n) < self.config.plain
        hu = torch.where(wide(plain), self._parenchyma(hu), self._from_fat(hu))
        for _ in range(self.config.vessels):
            radius = self.draws.uniform(0.4, 2.2, n)
            distance = distance_to_line(position, self.draws.offset(size_mm), self.draws.direction(n))
            hu = blend(hu, inside(distance - radius[:, None, None, None, None], 0.5), self.draws.uniform(-50, 80, n))
        wall = (position * self.draws.direction(n)[:, :, None, None, None]).sum(1, keepdim=True)
        depth = torch.where(
            self.draws.share(n) < self.config.pleura, self.draws.uniform(0.1, 0.8, n) * size_mm.amin(1) / 2, 1e6
        )
        return blend(hu, inside(depth[:, None, None, None, None] - wall, 0.7), self.draws.uniform(-80, 80, n))

    def _from_fat(self, hu: Tensor) -> Tensor:
        n = len(hu)
        return fat_to_lung(
            hu,
            lung_hu=self.draws.uniform(-920, -780, n),
            solid_hu=self.draws.uniform(-20, 60, n),
            share=self.draws.uniform(0.6, 0.98, n),
            power=self.draws.uniform(1, 3, n),
        )

    def _parenchyma(self, hu: Tensor) -> Tensor:
        n = len(hu)
        grain = F.avg_pool3d(self.draws.normal(*hu.shape), 3, stride=1, padding=1) * 3
        cloud = wide(self.draws.uniform(5, 60, n)) * self.draws.field(hu, (6, 12, 12))
        return wide(self.draws.uniform(-930, -780, n)) + cloud + wide(self.draws.uniform(10, 60, n)) * grain


def fat_to_lung(hu: Tensor, lung_hu: Tensor, solid_hu: Tensor, share: Tensor, power: Tensor) -> Tensor:
    """Stretch the darkest ``share`` of each crop's tissue to the range from lung to solid; brighter tissue stays solid.

    Air around the body also becomes lung, with the skin as its pleura.

    Args:
        hu: [batch, 1, depth, height, width].
        lung_hu, solid_hu: [batch], the new values of the darkest tissue and of tissue at the quantile ``share``.
        share: [batch] in (0, 1).
        power: [batch]; above 1, more of the tissue becomes lung.
    """
    sample = hu[:, 0, ::4, ::8, ::8].flatten(1).clamp_min(_FAT_HU).sort(dim=1).values
    quantile = (share * (sample.shape[1] - 1)).long()
    low, high = sample[:, sample.shape[1] // 20], sample.gather(1, quantile[:, None])[:, 0]
    high = torch.maximum(high, low + 120)  # uniform tissue must not become pure noise
    grade = ((hu - wide(low)) / wide(high - low)).clamp(0, 1) ** wide(power)
    return wide(lung_hu) + grade * wide(solid_hu - lung_hu) + (hu - wide(high)).clamp_min(0)
