"""Grad-CAM in 3D: which feature maps of a stage speak for a class, and where they are active.

Source: Selvaraju et al. 2017, Grad-CAM, ICCV, arXiv:1610.02391, equations 1 and 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from med_transfer.errors import ConfigError
from med_transfer.explanation.heat import HeatMap, extent, painted
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble

LEAST_VOXELS = 4  # a map that is coarser along an axis tells no place from another


@dataclass(frozen=True)
class GradCAM:
    """ReLU of the feature maps of a stage, weighted by the mean gradient of the class's logit.

    The mean over the fold models is interpolated linearly to the input's voxels; where each voxel of it is a tile,
    all of the tile has its value, and the mean where tiles overlap. Its unit has no meaning beyond its own map.

    Attributes:
        stage: counted from the stem, -1 the deepest. None: the deepest one that the logit depends on and that has at
            least 4 voxels along each axis; where there is none, the finest, of several the deepest. The deepest stage
            means most, but a small input leaves it a single voxel.
    """

    name: ClassVar[str] = "gradcam"
    stage: int | None = None

    def __call__(self, ensemble: Ensemble, image: Tensor, class_index: int) -> HeatMap:
        """See :class:`~med_transfer.explanation.heat.Method`.

        Raises:
            ConfigError: there is no such stage, or the class's logit does not depend on it.
        """
        stages, activations = zip(
            *(_activation(fold_model, image, class_index, self.stage) for fold_model in ensemble.fold_models),
            strict=True,
        )
        small = torch.stack(activations).mean(0)
        size = (image.shape[1], image.shape[2], image.shape[3])
        boxes = ensemble.fold_models[0].encoder.cuts(size)
        if len(boxes) == small.numel():  # tiles overlap, so that they are not even shares of the input
            values = painted(small.flatten().cpu().numpy(), boxes, size)
            return HeatMap(values.astype(np.float32), extent(boxes[0]), stages[0])
        values = F.interpolate(small[None, None], size=size, mode="trilinear", align_corners=False)[0, 0]
        depth, height, width = (n / m for n, m in zip(size, small.shape, strict=True))
        return HeatMap(values.cpu().numpy().astype(np.float32), (depth, height, width), stages[0])


def _activation(classifier: Classifier, image: Tensor, class_index: int, stage: int | None) -> tuple[int, Tensor]:
    """The stage that was read, and the class's activation [depth, height, width] on its voxels."""
    with torch.enable_grad():
        # The gradient has to flow through frozen parameters too, so it starts at the input.
        maps = classifier.encoder(image[None].detach().clone().requires_grad_())
        logit = classifier.head(classifier.pool(maps))[0, class_index]
        gradients = torch.autograd.grad(logit, maps, allow_unused=True)
    chosen = _stage(stage, maps, gradients)
    gradient = gradients[chosen]
    assert gradient is not None  # _stage has seen to it
    weights = gradient.mean(dim=(2, 3, 4), keepdim=True)
    return chosen, (weights * maps[chosen].detach()).sum(dim=1)[0].relu()


def _stage(wanted: int | None, maps: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> int:
    useful = [number for number, gradient in enumerate(gradients) if gradient is not None]
    if wanted is None:
        fine = [number for number in useful if min(maps[number].shape[2:]) >= LEAST_VOXELS]
        return max(fine) if fine else max(useful, key=lambda number: (maps[number][0, 0].numel(), number))
    chosen = wanted + len(maps) if wanted < 0 else wanted
    if chosen not in useful:
        raise ConfigError(
            f"stage {wanted}: the class does not depend on it",
            where="Grad-CAM",
            expected=f"one of {', '.join(map(str, useful))} of this network",
        )
    return chosen
