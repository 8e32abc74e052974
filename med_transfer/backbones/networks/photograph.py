"""Convert a scan to the input of a photograph network: three channels, normalised as in its training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from med_transfer.backbones.networks.colours import IMAGENET_MEAN, IMAGENET_STD, THREE_WINDOWS_RANGE_HU, Colours


class AsPhotograph(nn.Module):
    """[batch, channel, depth, height, width] in [0, 1] to normalised [batch, 3 * channel, ...]; has no parameters.

    Channels are ordered red of every channel, then green, then blue. If ``coloured``, the three input channels already
    are red, green and blue.

    Args:
        mean, std: mean and standard deviation of each colour in the network's training, for intensities in [0, 1].
        windows_hu: windows for red, green and blue, in HU; None repeats the input three times.
        range_hu: Hounsfield units of the input's 0 and 1; used with ``windows_hu`` only.
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
        """Return [batch, 3 * channel, depth, height, width], or if ``coloured`` as many channels as the input."""
        x = x.unsqueeze(2 if self.coloured else 1)
        if self.windowed:
            x = (x * self._colours("scale") + self._colours("shift")).clamp(0, 1)
        return ((x - self._colours("mean")) / self._colours("std")).flatten(1, 2)

    def _colours(self, name: str) -> Tensor:
        return self.get_buffer(name).view(3, 1, 1, 1, 1)
