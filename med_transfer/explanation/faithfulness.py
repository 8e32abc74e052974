"""Deletion: does the probability fall when what the map calls important is hidden, more than when anything else is?

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

RARE = 0.1  # a drop that more of the other regions reach is no more than chance
_BATCH = 8


@dataclass(frozen=True)
class MapCheckSettings:
    """How a map is put to the test.

    Attributes:
        share: of the input's voxels, the map's most important ones, that is hidden, in (0, 1); less where fewer speak
            for the class.
        fill: what hidden voxels show, in the network's units; None: the mean of the input, of each channel.
        n_random: regions elsewhere that the hidden one is held against; 0 leaves it out.
        draws: of random weights for the sanity check, each costing as much as the map; 0 leaves it out. A smooth map
            correlates with another by chance, so one draw says little.
        seed: of the random regions and weights.
    """

    share: float = 0.05
    fill: float | None = None
    n_random: int = 20
    draws: int = 3
    seed: int = 0


@dataclass(frozen=True)
class Deletion:
    """What hiding the map's most important voxels did to the probability of the class.

    Attributes:
        share: of the input's voxels that were hidden, in (0, 1).
        drop: of the probability, in [-1, 1].
        random_drops: the same for regions of the same size and shape elsewhere.
    """

    share: float
    drop: float
    random_drops: tuple[float, ...]

    @property
    def random_drop(self) -> float:
        """Mean drop of the other regions."""
        return float(np.mean(self.random_drops))

    @property
    def as_large_at_random(self) -> float:
        """Share of the other regions that made the probability fall at least as much, in [0, 1]."""
        return float(np.mean(np.array(self.random_drops) >= self.drop))

    @property
    def beats_chance(self) -> bool:
        """Whether at most a tenth of the other regions cost as much."""
        return self.as_large_at_random <= RARE


@torch.inference_mode()
def deletion(
    ensemble: Ensemble,
    image: Tensor,
    class_index: int,
    heat: HeatMap,
    checks: MapCheckSettings = MapCheckSettings(),
) -> Deletion | None:
    """Hide the most important share of the input, and the same region moved elsewhere at random.

    A region that is moved over an edge comes in again at the other side, so that size and shape stay.

    Args:
        ensemble, image, class_index: as the map was made with.
        heat: the map.
        checks: what is hidden, by what, and how many other regions it is held against.

    Returns:
        None when nothing in the map speaks for the class: then there is nothing to hide.
    """
    if heat.empty:
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
    """Of the voxels that speak for the class alone: hiding others would put the map down to what it does not show."""
    n = min(max(1, round(share * values.size)), int((values > 0).sum()))
    chosen = np.zeros(values.size, dtype=bool)
    chosen[np.argsort(-values.ravel(), kind="stable")[:n]] = True
    return chosen.reshape(values.shape)
