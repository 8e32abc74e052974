"""Pooled encoder features of scans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from med_transfer.backbones import Encoder
from med_transfer.backbones.networks.instances import InstanceEncoder

_VOXELS_ON_CPU = 2**18  # per batch: 8 scans of 32 x 32 x 32 run twice as fast together; larger scans gain nothing


def best_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def pooled_features(encoder: Encoder, batches: Iterable[Tensor], stages: Sequence[int], device: torch.device) -> Tensor:
    """Return features [scan, feature] of the chosen stages, concatenated: float32, on the CPU, in batch order.

    Args:
        encoder: encoder on ``device``; it is put in evaluation mode.
        batches: images [batch, channel, depth, height, width].
        stages: indices into the encoder's feature maps.
        device: device to which the images are moved.
    """
    encoder.eval()
    parts = (part for images in batches for part in in_parts(images.to(device), encoder))
    return torch.cat([encoder.pool(encoder(part), stages).float().cpu() for part in parts])


@torch.no_grad()
def instance_features(
    encoder: InstanceEncoder, batches: Iterable[Tensor], stages: Sequence[int], device: torch.device
) -> Tensor:
    """Return features [scan, instance, channel] of each slice or tile, stages concatenated; zero for empty ones.

    Like :func:`pooled_features`, but before pooling over instances.
    """
    encoder.eval()
    maps = (encoder(part) for images in batches for part in in_parts(images.to(device), encoder))
    of_stages = ([encoder.instance_features(of_batch[stage]) for stage in stages] for of_batch in maps)
    return torch.cat([torch.cat(features, dim=2).float().cpu() for features in of_stages])


def in_parts(images: Tensor, encoder: Encoder) -> Sequence[Tensor]:
    """Split a batch for inference on a CPU: scan by scan if scans are large or are cut into slices or tiles.

    Larger batches would not be faster there, and the feature maps of 16 scans take gigabytes. On a GPU the batch is
    returned whole.
    """
    if images.device.type != "cpu":
        return (images,)
    alone = bool(encoder.cuts((images.shape[2], images.shape[3], images.shape[4])))
    return images.split(1 if alone else max(1, _VOXELS_ON_CPU // images[0, 0].numel()))


def stage_features(encoder: Encoder, maps: Sequence[Tensor]) -> list[NDArray[np.float32]]:
    """Return pooled features [scan, channel] of each stage separately, shallow to deep."""
    return [encoder.pool(maps, (stage,)).float().cpu().numpy() for stage in range(len(maps))]


def effective_rank(features: Tensor) -> float:
    """Return the effective number of dimensions of features [scan, feature]: exp of their singular values' entropy.

    Source: Roy & Vetterli 2007, EUSIPCO; as a figure for pretraining without labels: Garrido et al. 2023
    (RankMe), arXiv:2210.02885. Constant features have rank 1.
    """
    centred = (features - features.mean(0)).double()
    values = torch.linalg.svdvals(centred)
    share = values / values.sum().clamp_min(1e-12)
    return float(torch.exp(-(share * share.clamp_min(1e-12).log()).sum()))
