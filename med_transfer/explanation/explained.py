"""A heat map together with checks of its reliability."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from med_transfer.explanation.faithfulness import RARE, Deletion, MapCheckSettings, deletion
from med_transfer.explanation.heat import HeatMap, Method
from med_transfer.explanation.sanity import MAX_CORRELATION, Sanity, sanity
from med_transfer.model.ensemble import Ensemble


@dataclass(frozen=True)
class Explanation:
    """Where the network looked in one scan for one class.

    Attributes:
        heat: the map on the input grid.
        probability: calibrated probability of the class, averaged over fold models, in [0, 1].
        deletion: faithfulness check; None if the map is empty or uniform, or the check was not requested.
        sanity: check of the dependence on weights; None if the map is empty or uniform, or the check was not requested.
    """

    heat: HeatMap
    probability: float
    deletion: Deletion | None
    sanity: Sanity | None

    @property
    def doubts(self) -> tuple[str, ...]:
        """Reasons not to rely on the map, one sentence each."""
        return tuple(self._doubts())

    def _doubts(self) -> Iterator[str]:
        if self.heat.empty:
            yield "Nothing in the map supports the class."
        if self.heat.uniform:
            yield "The map is the same everywhere: it shows no place."
        if self.sanity is not None and not self.sanity.passed:
            yield (
                f"The map hardly depends on what the network learned: with random weights its rank correlation is "
                f"{self.sanity.correlation:.2f} (at most {MAX_CORRELATION} is expected)."
            )
        if self.deletion is not None and not self.deletion.beats_chance:
            yield (
                f"Hiding the map's strongest {100 * self.deletion.share:.2g}% does not lower the probability clearly "
                f"more than hiding other regions: {self.deletion.as_large_at_random:.0%} of them lower it at least as "
                f"much (at most {RARE:.0%} are expected)."
            )


def explain(
    ensemble: Ensemble,
    image: Tensor,
    class_index: int,
    method: Method,
    checks: MapCheckSettings = MapCheckSettings(),  # noqa: B008  frozen
) -> Explanation:
    """Compute the map of one input for one class, and check its faithfulness and its dependence on the weights.

    Args:
        ensemble: network in evaluation mode, on the image's device.
        image: preprocessed input [channel, depth, height, width].
        class_index: index of the class to explain.
        method: method that computes the map.
        checks: settings of the checks.
    """
    heat = method(ensemble, image, class_index)
    with torch.inference_mode():
        probability = ensemble(image[None])[0, class_index].item()
    return Explanation(
        heat,
        probability,
        deletion(ensemble, image, class_index, heat, checks) if checks.n_random else None,
        sanity(ensemble, image, class_index, method, heat, checks) if checks.draws else None,
    )
