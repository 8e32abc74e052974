"""What of an ensemble is computed elsewhere: the cores of its different encoders, and what they are given."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from med_transfer.backbones import Features
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble


def distinct(ensemble: Ensemble) -> tuple[list[Classifier], tuple[int, ...]]:
    """A fold model for each different encoder, and for each fold model the number of its encoder."""
    encoders = {id(classifier.encoder): classifier for classifier in reversed(ensemble.fold_models)}
    order = list(dict.fromkeys(id(classifier.encoder) for classifier in ensemble.fold_models))
    numbers = tuple(order.index(id(classifier.encoder)) for classifier in ensemble.fold_models)
    return [encoders[key] for key in order], numbers


def core_inputs(classifier: Classifier, image: Tensor) -> list[Tensor]:
    """What an encoder's core is given for a scan [channel, depth, height, width]: itself, or chunks of tiles or slices.

    Each is a batch [n, ...] in 32 bits.
    """
    core, given = classifier.encoder.core(classifier.pooled_stages), []

    def record(batch: Tensor) -> Tensor:
        given.append(batch.contiguous().clone())
        return core(batch)

    with torch.no_grad():
        encoder = copy.deepcopy(classifier.encoder).with_core(record)
        encoder.pool(encoder(image[None]), classifier.pooled_stages)
    return given


def computed_by(ensemble: Ensemble, cores: Sequence[Features], numbers: Sequence[int]) -> Ensemble:
    """Another ensemble of the same weights, with each fold model's encoder computed by the core of its number."""
    weights = {id(tensor): tensor for tensor in (*ensemble.parameters(), *ensemble.buffers())}
    other, replaced = copy.deepcopy(ensemble, weights), {}
    for classifier, number in zip(other.fold_models, numbers, strict=True):
        if number not in replaced:
            replaced[number] = classifier.encoder.with_core(cores[number])
        classifier.encoder = replaced[number]
    return other
