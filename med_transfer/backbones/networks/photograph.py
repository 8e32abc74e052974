"""A scan as the photograph that a network of photographs expects: three channels, normalised as in its training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from med_transfer.backbones.networks.colours import IMAGENET_MEAN, IMAGENET_STD, THREE_WINDOWS_RANGE_HU, Colours


class AsPhotograph(nn.Module):
    """[batch, channel, depth, height, width] in [0, 1] to normalised [batch, 3 * channel, ...]; learns nothing.

    First the red of every channel, then the green, then the blue; ``coloured``, the three channels are these already.

    Args:
        mean, std: of each channel in the network's training, of intensities in [0, 1].
        windows_hu: one window a channel, as red, green and blue; None repeats the input three times.
        range_hu: Hounsfield units that the input's 0 and 1 stand for; read with ``windows_hu`` only.
    """

    def __init__(
        self,
        mean: Colours = IMAGENET_MEAN,
        std: Colours = IMAGENET_STD,
        windows_hu: Sequence[tuple[float, float]] | None = None,
        range_hu: tuple[float, float] = THREE_WINDOWS_RANGE_HU,
    ) -> None:
        super().__init__()
        self.windowed, self.coloured = windows_hu is not None, False
        constants: dict[str, Sequence[float]] = {"mean": mean, "std": std}
        if windows_hu is not None:
            bottom, top = range_hu
            constants["scale"] = [(top - bottom) / (high - low) for low, high in windows_hu]
            constants["shift"] = [(bottom - low) / (high - low) for low, high in windows_hu]
        for name, values in constants.items():
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 3 * channel, depth, height, width] of [batch, channel, depth, height, width], or as many."""
        x = x.unsqueeze(2 if self.coloured else 1)
        if self.windowed:
            x = (x * self._colours("scale") + self._colours("shift")).clamp(0, 1)
        return ((x - self._colours("mean")) / self._colours("std")).flatten(1, 2)

    def _colours(self, name: str) -> Tensor:
        return self.get_buffer(name).view(3, 1, 1, 1, 1)
