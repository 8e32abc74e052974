"""Novelty: how far a scan lies from the training scans of a network.

Two distances are added, each divided by its 95th percentile over held-out scans. The first is that of the network's
features, modelled by a low-rank Gaussian (probabilistic PCA, Tipping & Bishop 1999). The second is that of a few input
statistics, modelled by a Gaussian with shrunk covariance (Ledoit & Wolf 2004): a network trained to distinguish nodules
ignores much of what distinguishes an abdomen from a lung, whereas grey values and noise show it.
The sum is converted to the share of held-out scans that lie nearer: 0.99 means less like the training scans than 99 of
100 scans that the network had not seen either. docs/measured/novelty.md reports how well it works.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_COMPONENTS = 16
_QUANTILES = 101
_PERCENTILES = (1, 10, 25, 50, 75, 90, 99)
_SAMPLED_VOXELS = 100_000  # voxels sampled per channel for percentiles
_MIN_SPREAD = 0.05  # of the largest spread: a statistic that never varied in training must not decide alone
STATISTICS = len(_PERCENTILES) + 3  # per channel


@torch.no_grad()
def input_statistics(images: Tensor) -> Tensor:
    """Return [batch, channel * STATISTICS]: mean, standard deviation, percentiles and noise of each channel.

    The noise is the median absolute value of the Laplacian, which edges hardly affect.

    Args:
        images: [batch, channel, depth, height, width].
    """
    images = images.float()
    laplacian = -6 * images[..., 1:-1, 1:-1, 1:-1]
    for axis in (2, 3, 4):
        for start in (0, 2):
            shifted = [slice(1, -1)] * 3
            shifted[axis - 2] = slice(start, start + images.shape[axis] - 2)
            laplacian = laplacian + images[..., *shifted]
    values = images.flatten(2)
    levels = torch.tensor(_PERCENTILES, device=images.device) / 100
    percentiles = torch.quantile(_subsampled(values), levels, dim=2).permute(1, 2, 0)
    noise = _subsampled(laplacian.abs().flatten(2)).median(dim=2, keepdim=True).values
    return torch.cat([values.mean(2, keepdim=True), values.std(2, keepdim=True), percentiles, noise], dim=2).flatten(1)


def _subsampled(values: Tensor) -> Tensor:
    """Subsample [batch, channel, voxel] with an odd step, so that the samples do not lie in one column of the image."""
    return values[..., :: values.shape[2] // _SAMPLED_VOXELS | 1]


class Novelty(nn.Module):
    """Novelty detector that gives a rank in [0, 1]. It consists of buffers, so it is saved with the network.

    Args:
        n_features: length of the network's feature vector.
        n_statistics: number of input statistics; 0 in older bundles, which do not use them.
    """

    mean: Tensor
    components: Tensor
    variances: Tensor
    residual: Tensor
    reference: Tensor
    input_mean: Tensor
    input_whitening: Tensor
    units: Tensor

    def __init__(self, n_features: int, n_statistics: int = 0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("components", torch.zeros(_COMPONENTS, n_features))
        self.register_buffer("variances", torch.ones(_COMPONENTS))
        self.register_buffer("residual", torch.ones(()))
        self.register_buffer("reference", torch.linspace(0, 1, _QUANTILES))
        self.n_statistics = n_statistics
        if n_statistics:
            self.register_buffer("input_mean", torch.zeros(n_statistics))
            self.register_buffer("input_whitening", torch.eye(n_statistics))
            self.register_buffer("units", torch.ones(2))

    @torch.no_grad()
    def fit(self, training: Tensor, held_out: Tensor, inputs: tuple[Tensor, Tensor] | None = None) -> Novelty:
        """Fit the model to training scans and the ranks to held-out scans; return self.

        Args:
            training, held_out: features [scan, feature].
            inputs: :func:`input_statistics` of the same training and held-out scans.
        """
        self.mean.copy_(training.mean(0))
        centred = training - self.mean
        _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
        n_components = min(_COMPONENTS, len(training) // 4, len(singular))
        variances = singular**2 / max(len(training) - 1, 1)
        self.components.zero_()[:n_components] = directions[:n_components]
        self.variances.fill_(1.0)[:n_components] = variances[:n_components].clamp_min(1e-8)
        self.residual.copy_((variances[n_components:].sum() / max(training.shape[1] - n_components, 1)).clamp_min(1e-8))
        if self.n_statistics and inputs is not None:
            self._fit_input(inputs[0].float())
            both = (self.distance(held_out), self.input_distance(inputs[1]))
            self.units.copy_(torch.stack([torch.quantile(one, 0.95).clamp_min(1e-8) for one in both]))
        seen = self._joined(held_out, inputs[1] if inputs else None)
        self.reference.copy_(torch.quantile(seen, torch.linspace(0, 1, _QUANTILES)))
        return self

    def _fit_input(self, training: Tensor) -> None:
        from sklearn.covariance import ledoit_wolf  # slow to import, and only training needs it

        spread = training.std(0, correction=0)
        spread = spread.clamp_min(max(_MIN_SPREAD * float(spread.max()), 1e-6))
        covariance, _ = ledoit_wolf(((training - training.mean(0)) / spread).double().numpy(), assume_centered=True)
        values, directions = torch.linalg.eigh(torch.from_numpy(covariance))
        self.input_mean.copy_(training.mean(0))
        self.input_whitening.copy_((directions / values.clamp_min(1e-8).sqrt()).T / spread)

    def distance(self, features: Tensor) -> Tensor:
        """Return the squared Mahalanobis distance [scan] of features [scan, feature]."""
        centred = features.float() - self.mean
        scores = centred @ self.components.T
        inside = (scores**2 / self.variances).sum(1)
        outside = ((centred**2).sum(1) - (scores**2).sum(1)).clamp_min(0)
        return inside + outside / self.residual

    def input_distance(self, statistics: Tensor) -> Tensor:
        """Return the squared Mahalanobis distance [scan] of input statistics [scan, statistic]."""
        return (((statistics - self.input_mean) @ self.input_whitening.T) ** 2).sum(1)

    def _joined(self, features: Tensor, statistics: Tensor | None) -> Tensor:
        distance = self.distance(features)
        if not self.n_statistics or statistics is None:
            return distance
        return distance / self.units[0] + self.input_distance(statistics) / self.units[1]

    def forward(self, features: Tensor, statistics: Tensor | None = None) -> Tensor:
        """Return the share of held-out scans that lie nearer, [scan], in [0, 1]."""
        ranks = torch.searchsorted(self.reference, self._joined(features, statistics).contiguous())
        return ranks.float() / _QUANTILES
