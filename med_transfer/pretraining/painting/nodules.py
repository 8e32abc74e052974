"""Nodules painted into crops, with their size, density, outline and solid part.

Densities: Hansell et al. 2008, Radiology 246:697 (ground glass: vessels stay visible; part-solid: a solid core).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from med_transfer.pretraining.painting.brush import RandomNumbers, blend, inside, position_mm, wide
from med_transfer.pretraining.view_config import LungSceneConfig

KINDS = ("none", "solid", "ground glass", "part-solid", "calcified")
_SOLID, _GROUND_GLASS, _PART_SOLID, _CALCIFIED = range(1, len(KINDS))
FACTS = ("size", "density", "solid share", "unevenness", "elongation", "core")
_EDGE_MM = 0.6
_SEEN_HU = 20.0  # a nodule that makes no voxel denser by more than this is left out


@dataclass(frozen=True)
class Nodules:
    """The nodules painted into a batch of crops; zeros for crops without one.

    Attributes:
        kind: position in ``KINDS``, int64 [batch].
        mask: share of each voxel that lies in the nodule, [batch, 1, depth, height, width].
        solid: share that lies in its solid part: equal to ``mask`` for solid and calcified nodules, 0 for ground glass.
        facts: [batch, fact], in the order of ``FACTS``: logarithm of the radius of the ball of equal volume over the
            crop's edge; mean HU; share of the volume that is solid; bumps as a share of the radius; logarithm of the
            longest over the shortest axis; radius of the core as a share of the nodule's.
    """

    kind: Tensor
    mask: Tensor
    solid: Tensor
    facts: Tensor

    @classmethod
    def empty(cls, hu: Tensor) -> Nodules:
        """For a batch without nodules."""
        kind = torch.zeros(len(hu), dtype=torch.long, device=hu.device)
        return cls(kind, torch.zeros_like(hu), torch.zeros_like(hu), hu.new_zeros(len(hu), len(FACTS)))

    @property
    def present(self) -> Tensor:
        """Whether a crop has a nodule, bool [batch]."""
        return self.kind > 0

    def put(self, crops: Tensor, painted: Nodules) -> None:
        """Set the entries of these crops of the batch (given by position), in place."""
        for field in fields(self):
            getattr(self, field.name)[crops] = getattr(painted, field.name)


class NodulePainter:
    """Paints one nodule near the centre of each crop: smooth or bumpy, round or elongated, of any kind in ``KINDS``."""

    def __init__(self, config: LungSceneConfig, draws: RandomNumbers) -> None:
        self.config, self.draws = config, draws
        self.shares = torch.tensor(config.kinds, device=draws.device).cumsum(0)

    def __call__(self, hu: Tensor, size_mm: Tensor) -> tuple[Tensor, Nodules]:
        """HU [batch, 1, depth, height, width] with a nodule in each crop where it is visible, and what it is."""
        n, draws = len(hu), self.draws
        radius = torch.minimum(draws.log_uniform(*self.config.radius_mm, n), 0.4 * size_mm.amin(1))
        position = position_mm(hu, size_mm) - (0.15 * draws.offset(size_mm))[:, :, None, None, None]
        stretch = draws.uniform(0.75, 1.33, n, 3)
        distance = (position * stretch[:, :, None, None, None]).square().sum(1, keepdim=True).sqrt()
        bumps = 0.45 * draws.share(n)
        outward = wide(bumps * radius) * (draws.field(hu, (4, 8, 8)) + 0.4 * draws.field(hu, (12, 24, 24)))
        mask = inside(distance - wide(radius) - outward, _EDGE_MM)
        kind = 1 + torch.bucketize(draws.share(n) * self.shares[-1], self.shares).clamp_max(len(KINDS) - 2)
        core = torch.where(kind == _PART_SOLID, draws.uniform(0.3, 0.75, n), torch.zeros(n, device=hu.device))
        core_mask = torch.where(wide(core) > 0, inside(distance - wide(core * radius) - outward, _EDGE_MM), 0.0)
        painted = torch.maximum(hu, self._filled(hu, mask, core_mask, kind))  # vessels stay visible in ground glass
        whole = (kind == _SOLID) | (kind == _CALCIFIED)
        solid = torch.where(wide(whole), mask, torch.minimum(core_mask, mask))
        long = (stretch.amax(1) / stretch.amin(1)).log()
        facts = self._facts(painted, mask, solid, bumps, long, torch.where(whole, 1.0, core))
        seen = (painted - hu).flatten(1).amax(1) > _SEEN_HU  # ground glass in denser tissue is invisible
        shown = Nodules(kind * seen, mask * wide(seen), solid * wide(seen), facts * seen[:, None])
        return torch.where(wide(seen), painted, hu), shown

    def _filled(self, hu: Tensor, mask: Tensor, core_mask: Tensor, kind: Tensor) -> Tensor:
        n, between = len(hu), self.draws.uniform
        density = torch.where(kind == _SOLID, between(-60, 90, n), between(-750, -350, n))
        density = torch.where(kind == _CALCIFIED, between(150, 700, n), density)
        texture = wide(between(5, 80, n)) * self.draws.field(hu, (8, 16, 16))
        return blend(blend(hu, mask, density, texture), core_mask, between(-60, 60, n))

    def _facts(self, hu: Tensor, mask: Tensor, solid: Tensor, bumps: Tensor, long: Tensor, core: Tensor) -> Tensor:
        volume = mask.mean((1, 2, 3, 4)).clamp_min(1e-6)
        size = (3 / (4 * math.pi) * volume).log() / 3
        density = (hu * mask).mean((1, 2, 3, 4)) / volume
        return torch.stack([size, density, solid.mean((1, 2, 3, 4)) / volume, bumps, long, core], dim=1)
