"""Supervised pretraining on painted nodules: the network predicts what was painted.

Size, density, solid part, outline and kind are known exactly because the program chose them. Labels from synthetic
images: Gao et al. 2023 (SyntheX), Nature Machine Intelligence 5:294; painted tumours: Hu et al. 2023, arXiv:2303.14869.
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from med_transfer.backbones import Encoder
from med_transfer.errors import ConfigError
from med_transfer.pretraining.methods.method import Figures, Method, PretrainingContext
from med_transfer.pretraining.painting.lung_scenes import LungScenes
from med_transfer.pretraining.painting.nodules import FACTS, KINDS, Nodules
from med_transfer.pretraining.source.views import CROP_ORIENTATION, reduce, reorient

_READ_STAGES = 2  # number of deepest maps whose means predict facts and kind
_MIN_SPREAD = 1e-6  # of a fact over the held-out nodules; a constant fact has no variance to explain
Batch = tuple[Tensor, Nodules]


class PaintedNodules(Method):
    """Predicts facts and kind of a nodule from means of the last maps, and its place from voxels of the first ones."""

    figure = "explained"
    paints = True

    def __init__(self, encoder: Encoder, context: PretrainingContext) -> None:
        super().__init__(encoder, context)
        if self.scenes is None:
            raise ConfigError(
                "nothing to paint", where="lung_scenes", expected="its settings, or {} for the usual ones"
            )
        self.painter = self.scenes
        channels = encoder.stage_channels
        self.facts = nn.Linear(sum(channels[-_READ_STAGES:]), len(FACTS))
        self.kind = nn.Linear(sum(channels[-_READ_STAGES:]), len(KINDS))
        located = channels[: self.config.painted_nodules.located_stages]
        self.place = nn.ModuleList(nn.Conv3d(width, 2, 1) for width in located)
        self.register_buffer("centre", torch.zeros(len(FACTS)))
        self.register_buffer("spread", torch.ones(len(FACTS)))
        self.centre: Tensor
        self.spread: Tensor

    @torch.no_grad()
    def begin(self) -> None:
        """Measure mean and standard deviation of the facts, so that each has equal weight."""
        drawn = [self.draw()[1] for _ in range(self.config.painted_nodules.calibration_batches)]
        facts = torch.cat([nodules.facts[nodules.present] for nodules in drawn])
        self.centre.copy_(facts.mean(0))
        self.spread.copy_(facts.std(0).clamp_min(1e-3))

    def draw(self) -> Batch:
        """Windowed crops with nodules, and what they are."""
        hu, nodules = self.painter.with_nodules(self.crops.batch(self.config.batch))
        return self.windowed(hu), nodules

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``loss`` and its unweighted parts ``facts`` (of crops with a nodule), ``kind`` and ``place``."""
        x, nodules = batch
        with self.half_precision():
            maps = self.maps(x)
            facts, kind = self._read(maps)
            where = self._located(maps)
        there = nodules.present
        of_facts = (
            F.smooth_l1_loss(facts[there], self._standard(nodules.facts[there])) if there.any() else facts.sum() * 0
        )
        of_kind = F.cross_entropy(kind, nodules.kind)
        of_place = self._place_loss(where, nodules)
        share = self.config.painted_nodules
        total = of_facts + share.kind * of_kind + share.place * of_place
        return {"loss": total, "facts": of_facts, "kind": of_kind, "place": of_place}

    def quality(self, encoder: Encoder) -> Figures:
        """On held-out crops: explained variance of the facts that vary, averaged and of each; accuracy of the kind."""
        if self._held_out_painted is None:
            return {}
        hu, nodules = self._held_out_painted
        with self.half_precision():
            facts, kind = self._read(self.maps(self.windowed(hu, degraded=False), encoder))
        there = nodules.present
        truth = self._standard(nodules.facts[there])
        errors, spreads = (facts[there] - truth).square().sum(0), (truth - truth.mean(0)).square().sum(0)
        each = {
            f"explained_{fact.replace(' ', '_')}": float(1 - error / spread)
            for fact, error, spread in zip(FACTS, errors, spreads, strict=True)
            if spread > _MIN_SPREAD
        }
        right = (kind.argmax(1) == nodules.kind).float().mean()
        explained = {"explained": sum(each.values()) / len(each)} if each else {}
        return explained | {"kind_accuracy": float(right)} | each

    @cached_property
    def _held_out_painted(self) -> Batch | None:
        """HU of :attr:`held_out` with nodules, the same at every measurement, and what was painted."""
        if self.held_out is None:
            return None
        return LungScenes(self.painter.config, self.context.device, seed=0).with_nodules(self.held_out)

    def _standard(self, facts: Tensor) -> Tensor:
        return (facts - self.centre) / self.spread

    def _read(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        means = torch.cat([x.mean((2, 3, 4)) for x in maps[-_READ_STAGES:]], dim=1)
        return self.facts(means).float(), self.kind(means).float()

    def _located(self, maps: list[Tensor]) -> list[Tensor]:
        """Logits of nodule and solid part at each voxel of the first maps."""
        return [head(x).float() for head, x in zip(self.place, maps, strict=False)]

    def _place_loss(self, logits: list[Tensor], nodules: Nodules) -> Tensor:
        truth = reduce(torch.cat([nodules.mask, nodules.solid], dim=1), self.config.input_shape)
        truth = reorient(truth, CROP_ORIENTATION, self.context.input.orientation)
        each = [
            F.binary_cross_entropy_with_logits(
                stage, F.adaptive_avg_pool3d(truth, (stage.shape[2], stage.shape[3], stage.shape[4]))
            )
            for stage in logits
        ]
        return torch.stack(each).mean() if each else truth.new_zeros(())
