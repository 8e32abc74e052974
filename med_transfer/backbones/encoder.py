"""What every backbone is: a stem and stages that turn a volume into feature maps."""

from __future__ import annotations

from torch import Tensor, nn


class Encoder(nn.Module):
    """A stem followed by stages; each stage gives one feature map.

    Attributes:
        stage_channels: channels of each returned map, shallow to deep.
    """

    stage_channels: tuple[int, ...]

    def stages(self) -> list[nn.Module]:
        """The stem, then each stage, in the order of the data flow: for freezing and layer-wise learning rates.

        Together they hold every parameter and every buffer of the encoder, each once.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of a batch, one a stage, shallow to deep.

        Args:
            x: [batch, channel, depth, height, width].
        """
        raise NotImplementedError
