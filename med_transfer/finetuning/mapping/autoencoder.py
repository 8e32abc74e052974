"""A denoising autoencoder of frozen features: its bottleneck keeps what the target's scans vary in, labels or not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

LEARNING_RATE, WEIGHT_DECAY = 5e-3, 1e-4


@dataclass(frozen=True)
class Autoencoder:
    """``code = tanh(features W' + b)``, and linear back; standardisation is folded into both layers, exactly.

    Attributes:
        encoder: feature to bottleneck.
        decoder: bottleneck to feature.
        scale: standard deviation of each feature among the scans that it was fitted on.
    """

    encoder: nn.Linear
    decoder: nn.Linear
    scale: Tensor

    @torch.no_grad()
    def code(self, features: Tensor) -> Tensor:
        """[scan, bottleneck] in (-1, 1) of features [scan, feature]."""
        return self.encoder(features).tanh()

    @torch.no_grad()
    def kept_variance(self, features: Tensor) -> float:
        """Share of the standardised variance of other scans that survives the bottleneck; 0 is no better than the mean.

        It can fall below 0.
        """
        z, back = features / self.scale, self.decoder(self.code(features)) / self.scale
        return 1 - float((z - back).square().sum() / (z - z.mean(0)).square().sum().clamp_min(1e-12))


def fit_autoencoder(features: Tensor, bottleneck: int, *, noise: float, steps: int, seed: int) -> Autoencoder:
    """Learn to give features back from their noisy selves through a narrow layer; the same seed gives the same one.

    Args:
        features: [scan, feature], of all scans of the target that may be looked at.
        bottleneck: units of the narrow layer.
        noise: standard deviation of the added noise, in units of each feature's own.
        steps: of Adam with weight decay, each on all scans.

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
    """Layers between standardised features become layers between features as they are."""
    encoder.weight.div_(scale)
    encoder.bias.sub_(encoder.weight @ mean)
    decoder.weight.mul_(scale[:, None])
    decoder.bias.mul_(scale).add_(mean)
