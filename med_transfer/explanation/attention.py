"""Attention maps: how much each slice or tile counts in the prediction of a scan, regardless of the class.

Source: Ilse et al. 2018, Attention-based Deep Multiple Instance Learning, ICML, arXiv:1802.04712, section 2.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from med_transfer.backbones import Encoder
from med_transfer.backbones.networks.instances import InstanceEncoder
from med_transfer.errors import ConfigError
from med_transfer.explanation.heat import HeatMap, extent, fill_boxes
from med_transfer.model.ensemble import Ensemble

_ROUNDING = 1e-5  # smaller deviations from a uniform weight count as 0


@dataclass(frozen=True)
class Attention:
    """An instance's weight relative to a uniform one, minus 1: 0 for an average instance, -1 for no weight.

    The map is averaged over fold models, and over tiles where they overlap. Untrained attention gives an empty map.
    """

    name: ClassVar[str] = "attention"

    @torch.inference_mode()
    def __call__(self, ensemble: Ensemble, image: Tensor, class_index: int) -> HeatMap:
        """Return the map; see :class:`~med_transfer.explanation.heat.Method`. ``class_index`` is ignored.

        Raises:
            ConfigError: the network has no attention.
        """
        encoders = [_with_attention(fold_model.encoder) for fold_model in ensemble.fold_models]
        weights = torch.stack([encoder.instance_weights(encoder(image[None]))[0] for encoder in encoders])
        counted = (weights > 0).sum(dim=1, keepdim=True)  # skipped instances have weight 0
        shares = (weights.double() * counted - 1).mean(dim=0).cpu().numpy()
        depth, height, width = image.shape[1:]
        boxes = encoders[0].cuts((depth, height, width))
        mean = fill_boxes(shares, boxes, (depth, height, width))
        values = np.where(np.abs(mean) < _ROUNDING, 0, mean).astype(np.float32)
        return HeatMap(values, extent(boxes[0]), len(encoders[0].stage_channels) - 1)


def looks_by_attention(ensemble: Ensemble) -> bool:
    """Whether every fold model pools slices or tiles by trained attention."""
    encoders = [fold_model.encoder for fold_model in ensemble.fold_models]
    return all(isinstance(encoder, InstanceEncoder) and encoder.has_learned_attention for encoder in encoders)


def _with_attention(encoder: Encoder) -> InstanceEncoder:
    if isinstance(encoder, InstanceEncoder) and encoder.attention is not None:
        return encoder
    pooling = encoder.instance_pooling
    raise ConfigError(
        f"a network whose slices or tiles are pooled by {pooling}" if pooling else "a network that has no attention",
        where="attention",
        expected="a backbone of slices or tiles with backbone.instance_pooling: attention",
        action="Use method gradcam or occlusion",
    )
