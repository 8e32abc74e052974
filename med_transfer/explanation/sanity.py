"""Sanity check: a map that depends on what the network has learned must change if its weights are random.

Source: Adebayo et al. 2018, Sanity Checks for Saliency Maps, NeurIPS, arXiv:1810.03292, section 3. All weights are
randomised at once, which is the last step of the paper's cascade.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from med_transfer.explanation.faithfulness import MapCheckSettings
from med_transfer.explanation.heat import HeatMap, Method
from med_transfer.model.ensemble import Ensemble

MAX_CORRELATION = 0.5  # a higher rank correlation means that architecture and scan largely determine the map


@dataclass(frozen=True)
class Sanity:
    """Spearman's rank correlation, in [-1, 1], of the map with maps of the same network with random weights.

    Attributes:
        correlations: one per draw of the weights; 0 if a map is constant.
    """

    correlations: tuple[float, ...]

    @property
    def correlation(self) -> float:
        """Mean over the draws."""
        return float(np.mean(self.correlations))

    @property
    def passed(self) -> bool:
        """Whether the map depends on the weights: mean correlation at most ``MAX_CORRELATION``."""
        return self.correlation <= MAX_CORRELATION


def sanity(
    ensemble: Ensemble, image: Tensor, class_index: int, method: Method, heat: HeatMap, checks: MapCheckSettings
) -> Sanity | None:
    """Recompute the map with random weights; return None if the map is empty or uniform, as it has no ranks.

    Args:
        ensemble, image, class_index, method: arguments with which the map was computed.
        heat: the map.
        checks: number of draws, at least one, and the seed of the first.
    """
    if heat.empty or heat.uniform:
        return None
    others = [method(randomised(ensemble, checks.seed + draw), image, class_index) for draw in range(checks.draws)]
    return Sanity(tuple(rank_correlation(heat.values, other.values) for other in others))


def randomised(ensemble: Ensemble, seed: int) -> Ensemble:
    """Return a copy in which every layer of every fold model has new initial weights.

    Parameters of layers without an initialisation are permuted. Torch's global random state is not changed.
    """
    drawn = copy.deepcopy(ensemble)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for fold_model in drawn.fold_models:
            fold_model.encoder = copy.deepcopy(fold_model.encoder)  # fold models may share a frozen encoder
            for module in fold_model.modules():
                _draw(module)
    return drawn.eval()


def _draw(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
        return
    for parameter in module.parameters(recurse=False):
        order = torch.randperm(parameter.numel()).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))


def rank_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return Spearman's rho of two maps over their voxels; 0 if one of them is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(stats.rankdata(first), stats.rankdata(second))[0, 1])
