"""Deletion check: whether hiding the map's important voxels lowers the probability more than hiding others.

Source: Samek et al. 2017, Evaluating the Visualization of What a Deep Neural Network Has Learned, IEEE TNNLS 28:2660;
Petsiuk et al. 2018, RISE, arXiv:1806.07421 (deletion).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from med_transfer.explanation.heat import HeatMap
from med_transfer.model.ensemble import Ensemble
from med_transfer.model.features import in_parts

RARE = 0.1  # if a larger share of random regions reaches the drop, it is no better than chance
_BATCH = 8


@dataclass(frozen=True)
class MapCheckSettings:
    """Settings of the checks of a map.

    Attributes:
        share: share of the input's voxels to hide, the map's most important ones, in (0, 1); less if fewer voxels
            support the class.
        fill: value of hidden voxels, in the network's units; None for the mean of each channel.
        n_random: number of random regions to compare with; 0 skips the deletion check.
        draws: number of random networks in the sanity check, each as expensive as the map; 0 skips it. Smooth maps
            correlate by chance, so a single draw says little.
        seed: random seed of regions and weights.
    """

    share: float = 0.05
    fill: float | None = None
    n_random: int = 20
    draws: int = 3
    seed: int = 0


@dataclass(frozen=True)
class Deletion:
    """Effect on the class's probability of hiding the map's most important voxels.

    Attributes:
        share: share of the input's voxels that were hidden, in (0, 1).
        drop: drop of the probability, in [-1, 1].
        random_drops: drops for regions of the same size and shape elsewhere.
    """

    share: float
    drop: float
    random_drops: tuple[float, ...]

    @property
    def random_drop(self) -> float:
        """Mean drop over the random regions."""
        return float(np.mean(self.random_drops))

    @property
    def as_large_at_random(self) -> float:
        """Share of random regions with at least the same drop, in [0, 1]."""
        return float(np.mean(np.array(self.random_drops) >= self.drop))

    @property
    def beats_chance(self) -> bool:
        """Whether at most a tenth of the random regions have at least the same drop."""
        return self.as_large_at_random <= RARE


@torch.inference_mode()
def deletion(
    ensemble: Ensemble,
    image: Tensor,
    class_index: int,
    heat: HeatMap,
    checks: MapCheckSettings = MapCheckSettings(),
) -> Deletion | None:
    """Hide the most important share of the input, then the same region shifted to random places.

    A shifted region wraps around the edges, so that its size is kept.

    Args:
        ensemble, image, class_index: arguments with which the map was computed.
        heat: the map.
        checks: share and fill of hidden voxels, and number of random regions.

    Returns:
        None if no voxel of the map supports the class, or all do equally: then no part of it is the strongest.
    """
    if heat.empty or heat.uniform:
        return None
    rng = np.random.default_rng(checks.seed)
    important = _most_important(heat.values, checks.share)
    shifts = [rng.integers(0, important.shape) for _ in range(checks.n_random)]
    regions = [important, *(np.roll(important, tuple(shift), (0, 1, 2)) for shift in shifts)]
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    shown = mean if checks.fill is None else torch.full_like(mean, checks.fill)
    whole = ensemble(image[None])[0, class_index].item()
    drops: list[float] = []
    for start in range(0, len(regions), _BATCH):
        masks = torch.from_numpy(np.stack(regions[start : start + _BATCH])).to(image.device)[:, None]
        hidden = torch.where(masks, shown[None], image[None])
        for part in in_parts(hidden, ensemble.fold_models[0].encoder):
            drops += (whole - ensemble(part)[:, class_index]).tolist()
    return Deletion(float(important.mean()), drops[0], tuple(drops[1:]))


def _most_important(values: NDArray[np.float32], share: float) -> NDArray[np.bool_]:
    """Mask of the most important voxels; only those that support the class, since the map does not claim others."""
    n = min(max(1, round(share * values.size)), int((values > 0).sum()))
    chosen = np.zeros(values.size, dtype=bool)
    chosen[np.argsort(-values.ravel(), kind="stable")[:n]] = True
    return chosen.reshape(values.shape)
