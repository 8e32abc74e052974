"""Maximum mean discrepancy as a loss: aligns all moments of the features by Gaussian kernels of several widths."""

from __future__ import annotations

import torch
from torch import Tensor

from med_transfer.finetuning.alignment.alignment import Alignment

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the kernels, as factors of the mean squared distance


class MultiKernelMMD(Alignment):
    """``weight`` times :func:`mmd_loss`.

    Source: Long et al. 2015, ICML, "Learning transferable features with deep adaptation networks", arXiv:1502.02791.
    """

    def forward(self, labelled: Tensor, unlabelled: Tensor, progress: float) -> Tensor:
        """The weighted loss of two batches of features [scan, feature]."""
        return self.weight * mmd_loss(labelled, unlabelled)


def mmd_loss(first: Tensor, second: Tensor) -> Tensor:
    """Unbiased squared MMD of features [scan, feature], with the mean of Gaussians of several widths as kernel.

    ::

        k(x, y) = mean over w in WIDTHS of exp(-|x - y|^2 / (w s)),  s the mean of |x - y|^2 over all pairs of scans
        sum_{i != j} k(x_i, x_j) / (m (m - 1)) + sum_{i != j} k(y_i, y_j) / (n (n - 1)) - 2 mean k(x_i, y_j)

    If both sides come from one distribution, its expectation is 0, so single batches can give negative values.
    ``s`` is computed from each batch, without gradient: with a fixed ``s``, shrinking all features would lower the
    loss as aligning them does. Computed in single precision, whatever the precision of the training.
    """
    with torch.autocast(first.device.type, enabled=False):
        points = torch.cat([first.float(), second.float()])
        squared = (points[:, None] - points).square().sum(2)
        n = len(points)
        scale = (squared.detach().sum() / (n * (n - 1))).clamp_min(1e-12)
        kernel = torch.stack([torch.exp(-squared / (width * scale)) for width in WIDTHS]).mean(0)
        m = len(first)
        within = _off_diagonal_mean(kernel[:m, :m]) + _off_diagonal_mean(kernel[m:, m:])
        return within - 2 * kernel[:m, m:].mean()


def _off_diagonal_mean(square: Tensor) -> Tensor:
    n = len(square)
    return (square.sum() - square.diagonal().sum()) / (n * (n - 1))
