"""The teacher of a distillation: a large frozen encoder with folded BatchNorm and standardised feature maps."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from med_transfer.backbones import Encoder, InputSpec
from med_transfer.pretraining.source.views import CROP_ORIENTATION, reorient, window


@dataclass(frozen=True)
class Targets:
    """The student's targets for a batch, for each distilled stage, shallow to deep.

    Attributes:
        maps: [batch, channel, depth, height, width] in the orientation of the crops, each channel standardised.
        means: [batch, channel], the spatial means of the maps, each standardised by its own mean and spread.
    """

    maps: list[Tensor]
    means: list[Tensor]


class Teacher(nn.Module):
    """A frozen encoder that maps HU crops to standardised targets.

    Call :meth:`calibrate` before :meth:`forward`; the statistics are buffers, saved with ``state_dict``.
    """

    def __init__(self, encoder: Encoder, spec: InputSpec, stages: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.spec, self.stages = spec, stages
        self.encoder = fold_batchnorm(encoder).eval().requires_grad_(False).to(dtype)
        for stage, channels in enumerate(self.channels):
            for name in ("map_mean", "map_spread", "mean_mean", "mean_spread"):
                self.register_buffer(f"{name}_{stage}", torch.zeros(channels))

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode, whatever ``mode`` says."""
        return super().train(False)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the distilled maps, shallow to deep."""
        return tuple(self.encoder.stage_channels[-self.stages :])

    @torch.no_grad()
    def raw_maps(self, hu: Tensor) -> list[Tensor]:
        """The last stages' maps in the orientation of the crops, in the encoder's dtype."""
        x = reorient(window(hu, self.spec.window_hu, self.spec.output_range), CROP_ORIENTATION, self.spec.orientation)
        weight = next(self.encoder.parameters())
        x = x.expand(-1, self.spec.channels, -1, -1, -1).to(weight.dtype)
        if weight.is_cuda and weight.is_contiguous(memory_format=torch.channels_last_3d):
            x = x.contiguous(memory_format=torch.channels_last_3d)
        maps = self.encoder(x)[-self.stages :]
        return [reorient(m, self.spec.orientation, CROP_ORIENTATION) for m in maps]

    def calibrate(self, batches: list[Tensor]) -> None:
        """Measure mean and standard deviation of every channel on batches of HU crops."""
        sums = [torch.zeros(4, c, device=batches[0].device, dtype=torch.float64) for c in self.channels]
        for hu in batches:
            for total, maps in zip(sums, self.raw_maps(hu), strict=True):
                m = maps.double()
                means = m.mean((2, 3, 4))
                total += torch.stack(
                    [m.mean((0, 2, 3, 4)), (m**2).mean((0, 2, 3, 4)), means.mean(0), (means**2).mean(0)]
                )
        for stage, total in enumerate(sums):
            map_mean, map_square, mean_mean, mean_square = total / len(batches)
            self._keep(stage, "map", map_mean, map_square)
            self._keep(stage, "mean", mean_mean, mean_square)

    def _keep(self, stage: int, what: str, mean: Tensor, square: Tensor) -> None:
        spread = (square - mean**2).clamp_min(0).sqrt()
        spread = spread.clamp_min(0.1 * float(spread.median()) + 1e-6)  # nearly constant channels are not amplified
        getattr(self, f"{what}_mean_{stage}").copy_(mean)
        getattr(self, f"{what}_spread_{stage}").copy_(spread)

    @torch.no_grad()
    def forward(self, hu: Tensor) -> Targets:
        """Targets of HU crops [batch, 1, depth, height, width]."""
        maps, means = [], []
        for stage, raw in enumerate(self.raw_maps(hu)):
            raw = raw.float()
            maps.append((raw - self._wide("map_mean", stage)) / self._wide("map_spread", stage))
            mean = raw.mean((2, 3, 4))
            means.append((mean - self._buffer("mean_mean", stage)) / self._buffer("mean_spread", stage))
        return Targets(maps, means)

    def _buffer(self, name: str, stage: int) -> Tensor:
        return getattr(self, f"{name}_{stage}")

    def _wide(self, name: str, stage: int) -> Tensor:
        return self._buffer(name, stage)[:, None, None, None]


def fold_batchnorm(encoder: Encoder) -> Encoder:
    """A copy for inference with every BatchNorm that follows a convolution folded into that convolution.

    It relies on the convention that a block registers a norm layer right after its convolution. Half of a residual
    network's inference time goes into reading and writing maps for BatchNorm.
    """
    encoder = copy.deepcopy(encoder).eval()
    for module in list(encoder.modules()):
        children = list(module.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if (
                isinstance(conv, nn.Conv3d)
                and isinstance(norm, nn.BatchNorm3d)
                and conv.out_channels == norm.num_features
            ):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return encoder
