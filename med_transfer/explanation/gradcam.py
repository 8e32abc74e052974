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
        maps_of = _maps(ensemble, image)
        stages, activations = zip(
            *(
                _activation(fold_model, maps, class_index, self.stage)
                for fold_model, maps in zip(ensemble.fold_models, maps_of, strict=True)
            ),
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


def _maps(ensemble: Ensemble, image: Tensor) -> list[list[Tensor]]:
    """Of each fold model the feature maps, with a gradient; of an encoder that several share, the same."""
    with torch.enable_grad():
        # The gradient has to flow through frozen parameters too, so it starts at the input.
        images = image[None].detach().clone().requires_grad_()
        of_encoder = {encoder: encoder(images) for encoder in {encoder for encoder, _ in ensemble.encoders}}
    return [[m for encoder, _ in model.encoders for m in of_encoder[encoder]] for model in ensemble.fold_models]


def _activation(
    classifier: Classifier, maps: Sequence[Tensor], class_index: int, stage: int | None
) -> tuple[int, Tensor]:
    """The stage that was read, and the class's activation [depth, height, width] on its voxels."""
    with torch.enable_grad():
        logit = classifier.head(classifier.pool(list(maps)))[0, class_index]
    chosen, gradient = _gradient(logit, maps, stage)
    weights = gradient.mean(dim=(2, 3, 4), keepdim=True)
    return chosen, (weights * maps[chosen].detach()).sum(dim=1)[0].relu()


def _gradient(logit: Tensor, maps: Sequence[Tensor], wanted: int | None) -> tuple[int, Tensor]:
    """The stage, and the logit's gradient on its map, of one map at a time: the encoder is not passed back."""

    def on(number: int) -> Tensor | None:
        return torch.autograd.grad(logit, maps[number], retain_graph=True, allow_unused=True)[0]

    for number in _in_order(maps) if wanted is None else {wanted, wanted + len(maps)} & set(range(len(maps))):
        if (gradient := on(number)) is not None:
            return number, gradient
    useful = [str(number) for number in range(len(maps)) if on(number) is not None]
    raise ConfigError(
        f"stage {wanted}: the class does not depend on it",
        where="Grad-CAM",
        expected=f"one of {', '.join(useful)} of this network",
    )


def _in_order(maps: Sequence[Tensor]) -> list[int]:
    """Those that tell one place from another, deepest first; then the others, finest first, of several the deepest."""
    fine = [number for number in range(len(maps)) if min(maps[number].shape[2:]) >= LEAST_VOXELS]
    others = sorted(set(range(len(maps))) - set(fine), key=lambda number: (maps[number][0, 0].numel(), number))
    return [*reversed(fine), *reversed(others)]
