"""Grad-CAM in 3D: which feature maps of a stage support a class, and where they are active.

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
from med_transfer.explanation.heat import HeatMap, extent, fill_boxes
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble

MIN_VOXELS = 4  # per axis; coarser maps do not localise


@dataclass(frozen=True)
class GradCAM:
    """ReLU of the sum of a stage's feature maps, weighted by the mean gradient of the class's logit.

    The mean over fold models is interpolated linearly to the input's voxels. If each of its voxels is a tile, the whole
    tile gets its value, averaged where tiles overlap. Values are comparable only within a map.

    Attributes:
        stage: index of the stage after the stem, -1 for the deepest. None takes the deepest stage that the logit
            depends on and that has at least 4 voxels along each axis, else the finest one (the deepest of several).
            Deeper stages are more meaningful, but for a small input the deepest has a single voxel.
    """

    name: ClassVar[str] = "gradcam"
    stage: int | None = None

    def __call__(self, ensemble: Ensemble, image: Tensor, class_index: int) -> HeatMap:
        """Return the map; see :class:`~med_transfer.explanation.heat.Method`.

        Raises:
            ConfigError: the stage does not exist, or the class's logit does not depend on it.
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
        if len(boxes) == small.numel():  # each voxel is a slice or a tile; tiles overlap
            values = fill_boxes(small.flatten().cpu().numpy(), boxes, size)
            return HeatMap(values.astype(np.float32), extent(boxes[0]), stages[0])
        values = F.interpolate(small[None, None], size=size, mode="trilinear", align_corners=False)[0, 0]
        depth, height, width = (n / m for n, m in zip(size, small.shape, strict=True))
        return HeatMap(values.cpu().numpy().astype(np.float32), (depth, height, width), stages[0])


def _maps(ensemble: Ensemble, image: Tensor) -> list[list[Tensor]]:
    """Feature maps of each fold model, with gradients; a shared encoder is run once."""
    with torch.enable_grad():
        # Requiring a gradient of the input builds the graph even if all parameters are frozen.
        images = image[None].detach().clone().requires_grad_()
        of_encoder = {encoder: encoder(images) for encoder in {encoder for encoder, _ in ensemble.encoders}}
    return [[m for encoder, _ in model.encoders for m in of_encoder[encoder]] for model in ensemble.fold_models]


def _activation(
    classifier: Classifier, maps: Sequence[Tensor], class_index: int, stage: int | None
) -> tuple[int, Tensor]:
    """The stage used, and the class's activation [depth, height, width] on its voxels."""
    with torch.enable_grad():
        logit = classifier.head(classifier.pool(list(maps)))[0, class_index]
    chosen, gradient = _gradient(logit, maps, stage)
    weights = gradient.mean(dim=(2, 3, 4), keepdim=True)
    return chosen, (weights * maps[chosen].detach()).sum(dim=1)[0].relu()


def _gradient(logit: Tensor, maps: Sequence[Tensor], wanted: int | None) -> tuple[int, Tensor]:
    """The stage, and the logit's gradient on its map, without backpropagation through the encoder."""

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
    """Stages in order of preference: fine enough ones, deepest first; then the others, finest (and deepest) first."""
    fine = [number for number in range(len(maps)) if min(maps[number].shape[2:]) >= MIN_VOXELS]
    others = sorted(set(range(len(maps))) - set(fine), key=lambda number: (maps[number][0, 0].numel(), number))
    return [*reversed(fine), *reversed(others)]
