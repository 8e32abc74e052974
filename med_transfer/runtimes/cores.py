"""The parts of an ensemble that another runtime computes: the cores of its distinct encoders, and their inputs."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from med_transfer.backbones import Encoder, Features
from med_transfer.model.ensemble import Ensemble


def distinct(ensemble: Ensemble) -> tuple[list[tuple[Encoder, tuple[int, ...]]], tuple[int, ...]]:
    """Return the distinct encoders, each with the stages that are read, and the index of each of ``ensemble.encoders``
    among them."""
    different = list(dict.fromkeys(ensemble.encoders))
    return different, tuple(different.index(one) for one in ensemble.encoders)


def core_inputs(encoder: Encoder, stages: Sequence[int], image: Tensor) -> list[Tensor]:
    """Return the inputs of an encoder's core for a scan [channel, depth, height, width].

    Each is a float32 batch [n, ...]: the whole scan, or a chunk of its tiles or slices.
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
    """Return a copy of the ensemble that shares its weights and computes its encoders with other cores.

    Args:
        ensemble: stays unchanged.
        cores: of each distinct encoder.
        numbers: index into ``cores`` of each of ``ensemble.encoders``, as from :func:`distinct`.
    """
    weights = {id(tensor): tensor for tensor in (*ensemble.parameters(), *ensemble.buffers())}
    other = copy.deepcopy(ensemble, weights)
    numbered = dict(zip(other.encoders, numbers, strict=True))  # an encoder may be read at several stages
    computed = {one: one[0].with_core(cores[number]) for one, number in numbered.items()}
    for model in other.fold_models:
        model.encoder = model.encoder.with_independent_parts([computed[one] for one in model.encoders])
    return other
