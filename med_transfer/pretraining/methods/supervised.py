"""Supervised pretraining on the labels or masks of a source cohort.

After Mei et al. 2022 (RadImageNet), Radiology AI 4:e210315, and Chen et al. 2019 (Med3D), arXiv:1904.00625.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from med_transfer.backbones import Encoder
from med_transfer.errors import CohortError
from med_transfer.model.losses import classification_loss
from med_transfer.predictions.labels import Labels
from med_transfer.pretraining.methods.decoder import LightDecoder
from med_transfer.pretraining.methods.method import Figures, Method, PretrainingContext
from med_transfer.pretraining.source.crops import CENTRE, MASK, TISSUE, WHOLE, Crops, CropSampler
from med_transfer.pretraining.source.scans import SourceScans
from med_transfer.pretraining.source.views import reduce


class SupervisedLabels(Method):
    """Predicts the label from a crop around the region of interest, or from the whole scan; classes are balanced."""

    figure = "log_likelihood"

    def __init__(self, encoder: Encoder, context: PretrainingContext) -> None:
        super().__init__(encoder, context)
        self.truth = _truth(context.training, self.labels).to(context.device)
        features = sum(encoder.stage_channels[stage] for stage in context.pooled_stages)
        self.head = nn.Linear(features, len(self.labels))

    @property
    def labels(self) -> Labels:
        """The source cohort's classes. Raises CohortError if it has none."""
        if self.context.training.labels is None:
            raise CohortError(
                "the source has no labels",
                expected="a cohort.csv with a label column",
                action="Give a table instead of a folder, or choose another method",
            )
        return self.context.training.labels

    def sampler(self, source: SourceScans, seed: int) -> CropSampler:
        """Crops around the regions of interest, or whole scans, with balanced classes."""
        kind = CENTRE if self.context.config.supervised.region == "roi" else WHOLE
        config, device = self.context.config.crops, self.context.device
        return CropSampler(source, config, device, seed, {kind: 1.0}, _class_weights(_truth(source, self.labels)))

    def draw(self) -> tuple[Tensor, Tensor]:
        """Windowed crops, and the labels [batch, class] of their scans."""
        crops = self.crops.batch(self.config.batch)
        return self.windowed(crops.hu), self.truth[crops.scan.to(self.truth.device)]

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """``loss``, the smoothed cross-entropy; binary for each finding if a scan can have several."""
        x, truth = batch
        with self.half_precision():
            logits = self.head(self.pooled(self.maps(x))).float()
        smoothing = self.config.supervised.label_smoothing
        return {"loss": classification_loss(logits, truth, multilabel=self.labels.multilabel, smoothing=smoothing)}

    def quality(self, encoder: Encoder) -> Figures:
        """On held-out crops with balanced classes: mean log-likelihood and accuracy."""
        if self.held_out is None or self.context.validation is None:
            return {}
        truth = _truth(self.context.validation, self.labels)[self.held_out.scan].to(self.context.device)
        with self.half_precision():
            logits = self.head(self.pooled(self.maps(self.windowed(self.held_out.hu, degraded=False), encoder))).float()
        likelihood = -float(classification_loss(logits, truth, multilabel=self.labels.multilabel))
        right = (logits > 0) == (truth > 0) if self.labels.multilabel else logits.argmax(1) == truth.argmax(1)
        return {"log_likelihood": likelihood, "accuracy": float(right.float().mean())}


class SupervisedMasks(Method):
    """Predicts the mask in a crop, by cross-entropy and Dice loss in equal parts; the decoder is discarded."""

    figure = "dice"

    def __init__(self, encoder: Encoder, context: PretrainingContext) -> None:
        super().__init__(encoder, context)
        self.decoder = LightDecoder(encoder.stage_channels, self.config.supervised.decoder_channels)

    def sampler(self, source: SourceScans, seed: int) -> CropSampler:
        """Crops centred in masks and in other tissue. Raises CohortError if no scan has a mask."""
        if not any(scan.mask is not None and (scan.mask > 127).any() for scan in source.scans):
            raise CohortError("no scan has a mask", expected="a mask in the rows of the source cohort")
        inside = self.context.config.supervised.inside
        config, device = self.context.config.crops, self.context.device
        return CropSampler(source, config, device, seed, {MASK: inside, TISSUE: 1 - inside})

    def draw(self) -> tuple[Tensor, Tensor]:
        """Windowed crops, and their masks on the encoder's grid."""
        crops = self.crops.batch(self.config.batch, with_masks=True)
        return self.windowed(crops.hu), self._target(crops)

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """``loss``, the sum of its parts ``cross_entropy`` and ``dice_loss``."""
        x, mask = batch
        with self.half_precision():
            logits = self.decoded(self.decoder, x, self.encoder)
        dice_loss = 1 - _dice(logits.sigmoid(), mask)
        cross_entropy = F.binary_cross_entropy_with_logits(logits, mask)
        return {"loss": cross_entropy + dice_loss, "cross_entropy": cross_entropy, "dice_loss": dice_loss}

    def quality(self, encoder: Encoder) -> Figures:
        """Dice of all held-out crops together, at a threshold of 0.5."""
        if self.context.validation is None:
            return {}
        crops = self.sampler(self.context.validation, seed=0).batch(self.config.batch, with_masks=True)
        with self.half_precision():
            logits = self.decoded(self.decoder, self.windowed(crops.hu, degraded=False), encoder)
        return {"dice": float(_dice((logits > 0).float(), (self._target(crops) > 0.5).float()))}

    def _target(self, crops: Crops) -> Tensor:
        """The masks of crops, which were drawn with them, on the encoder's grid."""
        return reduce(cast(Tensor, crops.mask), self.config.input_shape)


def _dice(predicted: Tensor, truth: Tensor) -> Tensor:
    """Dice coefficient (Dice 1945, Ecology 26:297) over the batch; crops without a mask add false positives only."""
    return (2 * (predicted * truth).sum() + 1) / (predicted.sum() + truth.sum() + 1)


def _truth(source: SourceScans, labels: Labels) -> Tensor:
    """Labels as float [scan, class], 0 or 1."""
    table = labels.one_hot([scan.label if scan.label is not None else () for scan in source.scans])
    return torch.from_numpy(table.astype(np.float32))


def _class_weights(truth: Tensor) -> list[float]:
    """Sampling weights by scan: equal for every class; with findings, equal for every scan."""
    if bool((truth.sum(1) != 1).any()):
        return [1.0] * len(truth)
    share = truth @ (1 / truth.sum(0).clamp_min(1))
    return [w if math.isfinite(w) else 0.0 for w in share.tolist()]
