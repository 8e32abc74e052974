"""Losses between student and teacher, and between two views of a crop."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from med_transfer.pretraining.methods.teacher import Targets

_EMBEDDING = 1024


class DistillationLoss(nn.Module):
    """Projects the student's last maps onto the teacher's channels and compares them.

    Smooth L1 loss on the standardised maps and squared error on their standardised means, averaged over stages.

    Args:
        student_channels, teacher_channels: of the distilled stages, shallow to deep.
    """

    def __init__(self, student_channels: tuple[int, ...], teacher_channels: tuple[int, ...]) -> None:
        super().__init__()
        pairs = list(zip(student_channels, teacher_channels, strict=True))
        self.to_map = nn.ModuleList(nn.Conv3d(s, t, 1) for s, t in pairs)
        self.to_mean = nn.ModuleList(nn.Linear(s, t) for s, t in pairs)

    def forward(self, maps: list[Tensor], targets: Targets) -> tuple[Tensor, Tensor]:
        """Loss on the maps and loss on the means.

        Args:
            maps: the student's, [views * batch, channel, *space], one view of the batch after the other.
            targets: for the batch.
        """
        on_maps, on_means = maps[0].new_zeros((), dtype=torch.float32), maps[0].new_zeros((), dtype=torch.float32)
        for stage, (student, map_target, mean_target) in enumerate(zip(maps, targets.maps, targets.means, strict=True)):
            views = len(student) // len(map_target)
            predicted = self.to_map[stage](student).float()
            if predicted.shape[2:] != map_target.shape[2:]:
                predicted = F.interpolate(predicted, map_target.shape[2:], mode="trilinear", align_corners=False)
            for view in predicted.chunk(views):
                on_maps = on_maps + F.smooth_l1_loss(view, map_target) / (views * len(maps))
            means = self.to_mean[stage](student.mean((2, 3, 4))).float()
            for view in means.chunk(views):
                on_means = on_means + F.mse_loss(view, mean_target) / (views * len(maps))
        return on_maps, on_means

    def predicted_means(self, maps: list[Tensor]) -> list[Tensor]:
        """The student's predictions of the teacher's standardised means, [batch, teacher channel] for each stage."""
        return [layer(m.mean((2, 3, 4))) for layer, m in zip(self.to_mean, maps, strict=True)]


class VICReg(nn.Module):
    """Variance-invariance-covariance loss of two views' pooled features, divided by 25, so about 1 at the start.

    Source: Bardes, Ponce, LeCun 2022, arXiv:2105.04906, weights 25, 25, 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(
            nn.Linear(channels, _EMBEDDING), nn.BatchNorm1d(_EMBEDDING), nn.ReLU(), nn.Linear(_EMBEDDING, _EMBEDDING)
        )

    def forward(self, features: Tensor) -> Tensor:
        """The loss of ``features`` [2 * batch, channel]: all first views, then all second views."""
        embeddings = self.expand(features)
        with torch.autocast(features.device.type, enabled=False):  # bf16's 8 bits are too few for a covariance
            first, second = embeddings.float().chunk(2)
            spread = sum(F.relu(1 - (view.var(0) + 1e-4).sqrt()).mean() for view in (first, second)) / 2
            covariance = sum(_off_diagonal_square(view) for view in (first, second))
            return F.mse_loss(first, second) + spread + covariance / 25


def nt_xent(embeddings: Tensor, temperature: float, comparable: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised temperature-scaled cross-entropy (NT-Xent): each view has to find its partner among all others.

    Args:
        embeddings: [2 * batch, length]: all first views, then all second views.
        temperature: divides the cosine similarities.
        comparable: bool [batch, batch], whether two crops can be negatives of each other, which crops of one place
            cannot; its diagonal is ignored.

    Returns:
        The loss, and the share of views whose partner is the nearest of all that they are compared with.

    Source: Chen et al. 2020, arXiv:2002.05709, equation 1.
    """
    half = len(embeddings) // 2
    unit = F.normalize(embeddings.float(), dim=1)
    similarity = unit @ unit.T / temperature
    partner = torch.arange(2 * half, device=unit.device).roll(half)
    compared = comparable.repeat(2, 2).clone()
    compared[torch.arange(2 * half, device=unit.device), partner] = True
    compared.fill_diagonal_(False)
    similarity = similarity.masked_fill(~compared, -torch.inf)
    return F.cross_entropy(similarity, partner), (similarity.argmax(1) == partner).float().mean()


def _off_diagonal_square(embedding: Tensor) -> Tensor:
    centred = embedding - embedding.mean(0)
    covariance = centred.T @ centred / (len(embedding) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / embedding.shape[1]
