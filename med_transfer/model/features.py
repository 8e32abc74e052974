"""Pooled features of scans, as an encoder alone gives them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from med_transfer.backbones import Encoder
from med_transfer.backbones.networks.instances import InstanceEncoder

_VOXELS_ON_CPU = 2**18  # of a batch: 8 scans of 32 x 32 x 32 take half the time of one by one, two larger ones none


def best_device() -> torch.device:
    """The GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def pooled_features(encoder: Encoder, batches: Iterable[Tensor], stages: Sequence[int], device: torch.device) -> Tensor:
    """Features [scan, feature] of the chosen stages, joined: single precision, on the CPU, in the order of the batches.

    Args:
        encoder: on ``device``; it is put in evaluation mode.
        batches: of images [batch, channel, depth, height, width].
        stages: indices into the encoder's feature maps.
        device: where the images are sent to.
    """
    encoder.eval()
    parts = (part for images in batches for part in in_parts(images.to(device), encoder))
    return torch.cat([encoder.pool(encoder(part), stages).float().cpu() for part in parts])


@torch.no_grad()
def instance_features(
    encoder: InstanceEncoder, batches: Iterable[Tensor], stages: Sequence[int], device: torch.device
) -> Tensor:
    """Features [scan, instance, channel] of each slice or tile, of the chosen stages, joined; zero where it is empty.

    As :func:`pooled_features` gives them, before they are pooled.
    """
    encoder.eval()
    maps = (encoder(part) for images in batches for part in in_parts(images.to(device), encoder))
    of_stages = ([encoder.instance_features(of_batch[stage]) for stage in stages] for of_batch in maps)
    return torch.cat([torch.cat(features, dim=2).float().cpu() for features in of_stages])


def in_parts(images: Tensor, encoder: Encoder) -> Sequence[Tensor]:
    """A batch as an encoder that does not train takes it: scan by scan where each is large, or many slices or tiles.

    On a processor nothing is gained there by several at a time, and the maps of 16 scans take gigabytes.
    """
    if images.device.type != "cpu":
        return (images,)
    alone = bool(encoder.cuts((images.shape[2], images.shape[3], images.shape[4])))
    return images.split(1 if alone else max(1, _VOXELS_ON_CPU // images[0, 0].numel()))


def stage_features(encoder: Encoder, maps: Sequence[Tensor]) -> list[NDArray[np.float32]]:
    """Features [scan, channel] of each stage alone, shallow to deep, of the encoder's feature maps."""
    return [encoder.pool(maps, (stage,)).float().cpu().numpy() for stage in range(len(maps))]
