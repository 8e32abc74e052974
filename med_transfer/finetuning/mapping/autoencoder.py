"""A denoising autoencoder of frozen features: its bottleneck keeps the variation among the target's scans."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

LEARNING_RATE, WEIGHT_DECAY = 5e-3, 1e-4


@dataclass(frozen=True)
class Autoencoder:
    """``code = tanh(features W' + b)`` with a linear decoder; standardisation is folded into both layers, exactly.

    Attributes:
        encoder: features to bottleneck.
        decoder: bottleneck to features.
        scale: [feature], standard deviation of each feature among the scans that it was fitted on; 1 if constant.
    """

    encoder: nn.Linear
    decoder: nn.Linear
    scale: Tensor

    @torch.no_grad()
    def code(self, features: Tensor) -> Tensor:
        """The bottleneck's activations [scan, bottleneck] in (-1, 1) for features [scan, feature]."""
        return self.encoder(features).tanh()

    @torch.no_grad()
    def kept_variance(self, features: Tensor) -> float:
        """Share of the standardised features' variance that the reconstruction explains (R squared).

        0 is no better than the mean; scans that it was not fitted on can give negative values.
        """
        z, back = features / self.scale, self.decoder(self.code(features)) / self.scale
        return 1 - float((z - back).square().sum() / (z - z.mean(0)).square().sum().clamp_min(1e-12))


def fit_autoencoder(features: Tensor, bottleneck: int, *, noise: float, steps: int, seed: int) -> Autoencoder:
    """Learn to reconstruct features from noisy copies through a narrow layer; deterministic for a given seed.

    Args:
        features: [scan, feature], of all scans of the target that may be used.
        bottleneck: units of the narrow layer.
        noise: standard deviation of the added noise, in units of each feature's own.
        steps: of AdamW, each on all scans.

    Source: Vincent et al. 2010, JMLR 11:3371; features through autoencoders for transfer: Zhuang et al. 2015, IJCAI.
    """
    mean, scale = features.mean(0), features.std(0, correction=0)
    scale = torch.where(scale > 1e-6, scale, torch.ones_like(scale))
    z = (features - mean) / scale
    chance = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, decoder = nn.Linear(z.shape[1], bottleneck), nn.Linear(bottleneck, z.shape[1])
    adamw = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters()], LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    with torch.enable_grad():
        for _ in range(steps):
            noisy = z + noise * torch.randn(z.shape, generator=chance)
            loss = (decoder(encoder(noisy).tanh()) - z).square().mean()
            adamw.zero_grad()
            loss.backward()
            adamw.step()
    _fold(encoder, decoder, mean, scale)
    return Autoencoder(encoder, decoder, scale)


@torch.no_grad()
def _fold(encoder: nn.Linear, decoder: nn.Linear, mean: Tensor, scale: Tensor) -> None:
    """Turn layers on standardised features into layers on the original features, in place."""
    encoder.weight.div_(scale)
    encoder.bias.sub_(encoder.weight @ mean)
    decoder.weight.mul_(scale[:, None])
    decoder.bias.mul_(scale).add_(mean)
