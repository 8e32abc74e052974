"""Pooled features of scans, as an encoder alone gives them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from med_transfer.backbones import Encoder
from med_transfer.backbones.networks.instances import InstanceEncoder


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
    return torch.cat([encoder.pool(encoder(images.to(device)), stages).float().cpu() for images in batches])


@torch.no_grad()
def instance_features(
    encoder: InstanceEncoder, batches: Iterable[Tensor], stages: Sequence[int], device: torch.device
) -> Tensor:
    """Features [scan, instance, channel] of each slice or tile, of the chosen stages, joined; zero where it is empty.

    As :func:`pooled_features` gives them, before they are pooled.
    """
    encoder.eval()
    maps = (encoder(images.to(device)) for images in batches)
    of_stages = ([encoder.instance_features(of_batch[stage]) for stage in stages] for of_batch in maps)
    return torch.cat([torch.cat(features, dim=2).float().cpu() for features in of_stages])


def stage_features(encoder: Encoder, maps: Sequence[Tensor]) -> list[NDArray[np.float32]]:
    """Features [scan, channel] of each stage alone, shallow to deep, of the encoder's feature maps."""
    return [encoder.pool(maps, (stage,)).float().cpu().numpy() for stage in range(len(maps))]
