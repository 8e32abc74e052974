"""Contrastive pretraining: two overlapping crops of one place in a patient are positives, other places negatives.

Chen et al. 2020 (SimCLR), arXiv:2002.05709, or Bardes et al. 2022 (VICReg), arXiv:2105.04906. The two views preserve
what is meaningful in a patient: they lie close together, have nearly the same physical size, and are not mirrored
unless ``crops.flip`` says so. They differ as scans of different scanners do: in intensity, noise, slice thickness and
sharpness.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from med_transfer.backbones import Encoder
from med_transfer.pretraining.methods.losses import VICReg, nt_xent
from med_transfer.pretraining.methods.method import Figures, Method, PretrainingContext
from med_transfer.pretraining.source.crops import Crops


@dataclass(frozen=True)
class Pair:
    """Views of pairs of crops.

    Attributes:
        views: windowed, [2 * batch, 1, depth, height, width]: all first views, then all second views.
        comparable: bool [batch, batch], see :func:`different_places`.
    """

    views: Tensor
    comparable: Tensor


class Contrastive(Method):
    """SimCLR or VICReg on pooled features; the projection after the encoder is discarded."""

    figure = "retrieval"

    def __init__(self, encoder: Encoder, context: PretrainingContext) -> None:
        super().__init__(encoder, context)
        features = sum(encoder.stage_channels[stage] for stage in context.pooled_stages)
        settings = self.config.contrastive
        self.vicreg = VICReg(features) if settings.loss == "vicreg" else None
        self.project = None if self.vicreg else _projection(features, settings.embedding)

    def draw(self) -> Pair:
        """Two degraded views of each of ``batch`` crops."""
        settings = self.config.contrastive
        first, second = self.crops.pairs(self.config.batch, settings.shift, settings.stretch)
        views = torch.cat([self.windowed(crops.hu) for crops in (first, second)])
        return Pair(views, different_places(first))

    def forward(self, batch: Pair) -> dict[str, Tensor]:
        """``loss``, and ``found``, the share of views whose partner is nearest."""
        with self.half_precision():
            features = self.pooled(self.maps(batch.views))
            if self.vicreg is not None:
                return {"loss": self.vicreg(features), "found": _retrieved(features.detach(), batch.comparable)}
            embeddings = self.project(features) if self.project is not None else features
        loss, retrieved = nt_xent(embeddings, self.config.contrastive.temperature, batch.comparable)
        return {"loss": loss, "found": retrieved}

    def quality(self, encoder: Encoder) -> Figures:
        """Share of held-out views whose partner has the nearest features (retrieval), and its value by chance."""
        if self.context.validation is None:
            return {}
        settings = self.config.contrastive
        pairs = self.sampler(self.context.validation, seed=0).pairs(self.config.batch, settings.shift, settings.stretch)
        views = torch.cat([self.windowed(crops.hu, degraded=False) for crops in pairs])
        with self.half_precision():
            features = self.pooled(self.maps(views, encoder))
        comparable = different_places(pairs[0])
        others = 2 * comparable.float().sum(1) + 1
        return {"retrieval": float(_retrieved(features, comparable)), "chance": float((1 / others).mean())}


def different_places(crops: Crops) -> Tensor:
    """Bool [batch, batch]: whether crops come from two scans, or lie farther apart than half their extent."""
    near = torch.cdist(crops.centre_mm, crops.centre_mm) < 0.5 * crops.size_mm.mean(1, keepdim=True)
    scan = crops.scan.to(near.device)
    return ~(near & (scan[:, None] == scan[None]))


def _retrieved(features: Tensor, comparable: Tensor) -> Tensor:
    """Share of views whose partner is nearest by cosine similarity of centred features."""
    return nt_xent(F.normalize(features.float() - features.float().mean(0)), 1.0, comparable)[1]


def _projection(features: int, embedding: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(features, features, bias=False), nn.BatchNorm1d(features), nn.ReLU(), nn.Linear(features, embedding)
    )
