"""What of an ensemble is computed elsewhere: the cores of its different encoders, and what they are given."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from med_transfer.backbones import Encoder, Features
from med_transfer.model.ensemble import Ensemble


def distinct(ensemble: Ensemble) -> tuple[list[tuple[Encoder, tuple[int, ...]]], tuple[int, ...]]:
    """Each different encoder with the stages that are read of it, and the number of each of ``ensemble.encoders``."""
    different = list(dict.fromkeys(ensemble.encoders))
    return different, tuple(different.index(one) for one in ensemble.encoders)


def core_inputs(encoder: Encoder, stages: Sequence[int], image: Tensor) -> list[Tensor]:
    """What an encoder's core is given for a scan [channel, depth, height, width]: itself, or chunks of tiles or slices.

    Each is a batch [n, ...] in 32 bits.
    """
    core, given = encoder.core(stages), []

    def record(batch: Tensor) -> Tensor:
        given.append(batch.contiguous().clone())
        return core(batch)

    with torch.no_grad():
        recorded = copy.deepcopy(encoder).with_core(record)
        recorded.pool(recorded(image[None]), stages)
    return given


def computed_by(ensemble: Ensemble, cores: Sequence[Features], numbers: Sequence[int]) -> Ensemble:
    """Another ensemble of the same weights, with its encoders computed by the cores of their numbers.

    Args:
        numbers: as :func:`distinct` gives them.
    """
    weights = {id(tensor): tensor for tensor in (*ensemble.parameters(), *ensemble.buffers())}
    other = copy.deepcopy(ensemble, weights)
    numbered = dict(zip((encoder for encoder, _ in other.encoders), numbers, strict=True))
    computed = {encoder: encoder.with_core(cores[number]) for encoder, number in numbered.items()}
    for model in other.fold_models:
        model.encoder = model.encoder.put_together([computed[encoder] for encoder, _ in model.encoders])
    return other
