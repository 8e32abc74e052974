"""Supervised pretraining on lesions painted into whole scans: the network predicts kind, place and amount.

Inputs are those of the later fine-tuning: slabs of whole scans in the same windows. See painting/lesions.py.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from med_transfer.backbones import Encoder
from med_transfer.backbones.networks.lesion_answers import KINDS
from med_transfer.pretraining.methods.method import Figures, Method, PretrainingContext
from med_transfer.pretraining.painting.lesions import LesionPainter, Lesions
from med_transfer.pretraining.source.crops import WHOLE, CropSampler
from med_transfer.pretraining.source.scans import SourceScans
from med_transfer.pretraining.source.views import CROP_ORIENTATION, reduce, reorient, window

_MIN_AREA = 3e-4  # share of a slice below which a lesion counts as absent
_RARE = 4.0  # weight of lesion voxels in the loss, since they are few
_AMOUNT_SCALE = 8.0  # of the square root of the share of a slice, to bring it to the order of 1
Batch = tuple[Tensor, Lesions]


class PaintedLesions(Method):
    """Predicts presence and amount per slice from in-plane means of the pooled maps, and the place from all maps."""

    figure = "presence_auc"

    def __init__(self, encoder: Encoder, context: PretrainingContext) -> None:
        super().__init__(encoder, context)
        self.painter = LesionPainter(self.config.painted_lesions, context.device, context.seed + 1)
        channels = encoder.stage_channels
        self.what = nn.Linear(sum(channels[stage] for stage in self.context.pooled_stages), 2 * len(KINDS))
        self.place = nn.ModuleList(nn.Conv3d(width, len(KINDS), 1) for width in channels)

    def sampler(self, source: SourceScans, seed: int) -> CropSampler:
        """Slabs of whole scans, each scan with equal probability."""
        return CropSampler(
            source, self.config.crops, self.context.device, seed, mixture={WHOLE: 1.0}, weights=[1.0] * len(source)
        )

    def draw(self) -> Batch:
        """Windowed slabs with lesions, and what was painted."""
        crops = self.crops.batch(self.config.batch)
        hu, lesions = self.painter(crops.hu, crops.size_mm)
        return self.windowed(hu), lesions

    def windowed(self, hu: Tensor, degraded: bool = True) -> Tensor:
        """Slabs [batch, window, depth, height, width] in the encoder's value range."""
        windows, spec = self.config.windows_hu or (self.context.input.window_hu,), self.context.input
        seen = reduce(hu, self.config.input_shape)
        seen = self.degrade.hounsfield(seen, windows[0]) if degraded else seen
        return torch.cat([window(seen, one, spec.output_range) for one in windows], dim=1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``loss``, the sum of its parts ``present``, ``amount`` and ``place``."""
        x, lesions = batch
        with self.half_precision():
            maps = self.maps(x)
            predicted = self._predicted(maps)
            places = [head(stage).float() for head, stage in zip(self.place, maps, strict=True)]
        mask = reorient(lesions.mask, CROP_ORIENTATION, self.context.input.orientation)
        area = self._area(mask, predicted.shape[1])
        present, amount = predicted.chunk(2, dim=2)
        of_present = F.binary_cross_entropy_with_logits(present, (area > _MIN_AREA).float())
        of_amount = F.smooth_l1_loss(amount, area.sqrt() * _AMOUNT_SCALE)
        of_place = torch.stack([_place_loss(logits, mask) for logits in places]).mean()
        total = of_present + of_amount + of_place
        return {"loss": total, "present": of_present, "amount": of_amount, "place": of_place}

    def quality(self, encoder: Encoder) -> Figures:
        """On held-out slabs, the mean AUC of each kind's presence in a slice; empty if no kind varies."""
        if self._held_out_painted is None:
            return {}
        from sklearn.metrics import roc_auc_score  # slow to import, and a short pretraining holds no scan out

        hu, lesions = self._held_out_painted
        with self.half_precision():
            predicted = self._predicted(self.maps(self.windowed(hu, degraded=False), encoder))
        mask = reorient(lesions.mask, CROP_ORIENTATION, self.context.input.orientation)
        truth = (self._area(mask, predicted.shape[1]) > _MIN_AREA).flatten(0, 1).cpu().numpy()
        scores = predicted.chunk(2, dim=2)[0].flatten(0, 1).cpu().numpy()
        areas = [roc_auc_score(t, s) for t, s in zip(truth.T, scores.T, strict=True) if 0 < t.mean() < 1]
        return {"presence_auc": float(np.mean(areas))} if areas else {}

    def kept_heads(self) -> dict[str, Tensor]:
        """Both heads, for :class:`~med_transfer.backbones.networks.lesion_answers.LesionAnswers`."""
        heads = nn.ModuleDict({"what": self.what, "place": self.place})
        return {name: tensor.detach() for name, tensor in heads.state_dict().items()}

    def generators(self) -> dict[str, torch.Generator]:
        """All generators, including the painter's."""
        return super().generators() | {"lesions": self.painter.random}

    @cached_property
    def _held_out_painted(self) -> Batch | None:
        """HU of :attr:`held_out` with lesions, the same at every measurement, and what was painted."""
        if self.held_out is None:
            return None
        painter = LesionPainter(self.config.painted_lesions, self.context.device, seed=0)
        return painter(self.held_out.hu, self.held_out.size_mm)

    def _predicted(self, maps: list[Tensor]) -> Tensor:
        """Logits of presence, then amounts, [batch, place along depth, 2 * kind], from the pooled stages."""
        stages = [maps[stage].mean((3, 4)) for stage in self.context.pooled_stages]
        depth = stages[-1].shape[2]
        joined = torch.cat([F.adaptive_avg_pool1d(stage, depth) for stage in stages], dim=1)
        return self.what(joined.transpose(1, 2)).float()

    @staticmethod
    def _area(mask: Tensor, depth: int) -> Tensor:
        """Largest painted share of a slice among the slices of each place along depth, [batch, place, kind]."""
        return F.adaptive_max_pool1d(mask.mean((3, 4)), depth).transpose(1, 2)


def _place_loss(logits: Tensor, mask: Tensor) -> Tensor:
    truth = F.adaptive_avg_pool3d(mask, (logits.shape[2], logits.shape[3], logits.shape[4]))
    return F.binary_cross_entropy_with_logits(logits, truth, pos_weight=logits.new_tensor(_RARE))
