"""Masked autoencoding: blocks of a crop are hidden, and the network reconstructs them.

After He et al. 2022 (MAE), arXiv:2111.06377. A convolution cannot skip hidden patches as a transformer does. Here they
are filled with the mean of the visible voxels, and the loss counts hidden voxels only, as in SimMIM (Xie et al. 2022,
arXiv:2111.09886) and Models Genesis (Zhou et al. 2021, arXiv:2004.07882). SparK (Tian et al. 2023, arXiv:2301.03580)
and ConvNeXt V2 (Woo et al. 2023, arXiv:2301.00808) use sparse convolutions instead, which would need encoders other
than those that are fine-tuned later.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from med_transfer.backbones import Encoder
from med_transfer.pretraining.methods.decoder import LightDecoder
from med_transfer.pretraining.methods.method import Figures, Method, PretrainingContext
from med_transfer.pretraining.source.views import encoder_input


class MaskedAutoencoding(Method):
    """Reconstruction by a decoder that reads every feature map and is discarded afterwards."""

    figure = "explained"
    paints = True

    def __init__(self, encoder: Encoder, context: PretrainingContext) -> None:
        super().__init__(encoder, context)
        self.decoder = LightDecoder(encoder.stage_channels, self.config.masked_autoencoding.decoder_channels)
        self.blocks = torch.Generator(context.device).manual_seed(context.seed + 3)

    def generators(self) -> dict[str, torch.Generator]:
        """All generators, including that of the hidden blocks."""
        return super().generators() | {"blocks": self.blocks}

    def draw(self) -> tuple[Tensor, Tensor]:
        """Windowed crops, and the mask of hidden voxels."""
        x = self.windowed(self.painted(self.crops.batch(self.config.batch), self.scenes))
        return x, self._hidden(len(x), self.blocks)

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """``loss``, the mean squared error on hidden voxels, and ``mean_predictor``, that of the visible mean."""
        x, hidden = batch
        with self.half_precision():
            error, of_mean = self._errors(x, hidden, self.encoder)
        return {"loss": error, "mean_predictor": of_mean}

    def quality(self, encoder: Encoder) -> Figures:
        """Explained share of the hidden voxels' variance (0 is as good as the visible mean), and RMSE in HU."""
        if self.held_out_hu is None:
            return {}
        x = self.windowed(self.held_out_hu, degraded=False)
        hidden = self._hidden(len(x), torch.Generator(x.device).manual_seed(0))
        with self.half_precision():
            error, of_mean = self._errors(x, hidden, encoder)
        (low, high), (bottom, top) = self.context.input.window_hu, self.context.input.output_range
        hu = float(error.sqrt()) * (high - low) / (top - bottom)
        return {"explained": float(1 - error / of_mean), "error_hu": hu}

    def finished(self, encoder: Encoder) -> Encoder:
        """A copy with BatchNorm statistics of complete crops: in training, the layers saw crops with holes.

        Source: Wu & Johnson 2021, arXiv:2105.07576, section 3 (statistics measured again after training).
        """
        sampler = self.crops.reseeded(seed=1)
        batches = [
            encoder_input(self.windowed(sampler.batch(self.config.batch).hu, degraded=False), self.context.input)
            for _ in range(self.config.masked_autoencoding.statistics_batches)
        ]
        whole = copy.deepcopy(encoder)
        update_bn(batches, whole)
        return whole.eval()

    def _hidden(self, count: int, random: torch.Generator) -> Tensor:
        """Mask [count, 1, *input_shape], 1 in hidden blocks, of which every crop has the same number."""
        block = self.config.masked_autoencoding.block
        grid = [n // block for n in self.config.input_shape]
        blocks = grid[0] * grid[1] * grid[2]
        n_hidden = min(blocks - 1, max(1, round(self.config.masked_autoencoding.hidden * blocks)))
        order = torch.rand((count, blocks), generator=random, device=random.device).argsort(1)
        hidden = (order < n_hidden).float().reshape(count, 1, *grid)
        for axis in (2, 3, 4):
            hidden = hidden.repeat_interleave(block, axis)
        return hidden

    def _errors(self, x: Tensor, hidden: Tensor, encoder: Encoder) -> tuple[Tensor, Tensor]:
        """Mean squared errors on hidden voxels: the network's, and that of predicting each crop's visible mean."""
        visible = 1 - hidden
        mean = (x * visible).sum((1, 2, 3, 4), keepdim=True) / visible.sum((1, 2, 3, 4), keepdim=True)
        decoded = self.decoded(self.decoder, x * visible + mean * hidden, encoder)

        def error(of: Tensor) -> Tensor:
            return ((of - x).square() * hidden).sum() / hidden.sum()

        return error(mean + decoded), error(mean)
