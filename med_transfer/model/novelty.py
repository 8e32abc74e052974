"""How far a scan lies from what a network was trained on.

The training scans' features are described by a Gaussian of low rank (probabilistic PCA, Tipping & Bishop 1999).
A scan's squared Mahalanobis distance is turned into the share of held-out scans that lie nearer,
so 0.99 means: less like the training scans than 99 of 100 scans that the network had not seen either.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_COMPONENTS = 16
_QUANTILES = 101


class Novelty(nn.Module):
    """Feature-space distance as a rank in [0, 1]. Buffers only, so it is saved with the network."""

    mean: Tensor
    components: Tensor
    variances: Tensor
    residual: Tensor
    reference: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("components", torch.zeros(_COMPONENTS, n_features))
        self.register_buffer("variances", torch.ones(_COMPONENTS))
        self.register_buffer("residual", torch.ones(()))
        self.register_buffer("reference", torch.linspace(0, 1, _QUANTILES))

    @torch.no_grad()
    def fit(self, training: Tensor, held_out: Tensor) -> Novelty:
        """Describe ``training`` features [scan, feature]; rank against ``held_out`` features [scan, feature]."""
        self.mean.copy_(training.mean(0))
        centred = training - self.mean
        _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
        n_components = min(_COMPONENTS, len(training) // 4, len(singular))
        variances = singular**2 / max(len(training) - 1, 1)
        self.components.zero_()[:n_components] = directions[:n_components]
        self.variances.fill_(1.0)[:n_components] = variances[:n_components].clamp_min(1e-8)
        self.residual.copy_((variances[n_components:].sum() / max(training.shape[1] - n_components, 1)).clamp_min(1e-8))
        self.reference.copy_(torch.quantile(self.distance(held_out), torch.linspace(0, 1, _QUANTILES)))
        return self

    def distance(self, features: Tensor) -> Tensor:
        """Squared Mahalanobis distance [scan] of features [scan, feature]."""
        centred = features.float() - self.mean
        scores = centred @ self.components.T
        inside = (scores**2 / self.variances).sum(1)
        outside = ((centred**2).sum(1) - (scores**2).sum(1)).clamp_min(0)
        return inside + outside / self.residual

    def forward(self, features: Tensor) -> Tensor:
        """Share of held-out scans that lie nearer [scan], in [0, 1]."""
        ranks = torch.searchsorted(self.reference, self.distance(features).contiguous())
        return ranks.float() / _QUANTILES
