"""A network that has learned two findings, a bright and a dark ball, each at any position."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn

from med_transfer.backbones import Encoder
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble

SIDE, RADIUS = 16, 2.5
BRIGHT, DARK = 0, 1


class BallEncoder(Encoder):
    """Maps of 8, 8 and 8 channels at 1/2, 1/4 and 1/8 of the input."""

    stage_channels = (8, 8, 8)

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv3d(channels, 4, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv3d(width, 8, 3, stride=2, padding=1), nn.BatchNorm3d(8), nn.ReLU())
            for width in (4, 8, 8)
        )

    def stages(self) -> list[nn.Module]:
        return [self.stem, *self.layers]


def ball(centre: tuple[int, int, int]) -> np.ndarray:
    """Boolean [depth, height, width]."""
    index = np.indices((SIDE,) * 3).transpose(1, 2, 3, 0)
    return ((index - np.array(centre)) ** 2).sum(-1) <= RADIUS**2


def scene(
    rng: np.random.Generator, bright: tuple[int, int, int] | None, dark: tuple[int, int, int] | None
) -> np.ndarray:
    """float32 [1, depth, height, width]: noise around 0, with the balls at +1 and -1."""
    image = rng.normal(0, 0.05, (SIDE,) * 3)
    for centre, value in ((bright, 1.0), (dark, -1.0)):
        if centre is not None:
            image[ball(centre)] += value
    return image.astype(np.float32)[None]


def _anywhere(rng: np.random.Generator) -> tuple[int, int, int]:
    depth, height, width = rng.integers(3, SIDE - 3, 3).tolist()
    return depth, height, width


@functools.cache
def learned(n_fold_models: int = 1, *, steps: int = 50) -> Ensemble:
    """Trained for some seconds; the classes are ``BRIGHT`` and ``DARK``, any number of them a scan."""
    return Ensemble([_member(seed, steps) for seed in range(n_fold_models)], multilabel=True).eval()


def _member(seed: int, steps: int) -> Classifier:
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        classifier, rng = Classifier(BallEncoder(), 2, dropout=0.0), np.random.default_rng(seed)
        optimiser = torch.optim.Adam(classifier.parameters(), lr=0.03)
        for _ in range(steps):
            truth = rng.random((16, 2)) < 0.5
            images = [scene(rng, _anywhere(rng) if b else None, _anywhere(rng) if d else None) for b, d in truth]
            logits = classifier(torch.from_numpy(np.stack(images)))
            # Smoothed labels: an overconfident network shows no drop when part of a finding is hidden.
            loss = nn.functional.binary_cross_entropy_with_logits(
                logits, torch.from_numpy(0.1 + 0.8 * truth.astype(np.float32))
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return classifier.eval()


def both_findings(bright: tuple[int, int, int], dark: tuple[int, int, int]) -> Tensor:
    """An input [1, depth, height, width] with both balls."""
    return torch.from_numpy(scene(np.random.default_rng(99), bright, dark))
