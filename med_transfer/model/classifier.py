"""Classifier from volume to logits: encoder, pooling, optional bottleneck, and a linear head."""

from __future__ import annotations

from torch import Tensor, nn

from med_transfer.backbones import Encoder
from med_transfer.errors import ConfigError


class Classifier(nn.Module):
    """Pooled feature maps of an encoder, concatenated, then dropout and one linear layer.

    Args:
        encoder: any backbone.
        n_classes: number of outputs.
        pooled_stages: feature maps to pool, as indices into the encoder's list; -1 is the deepest.
        dropout: probability that a feature is dropped in training, in [0, 1).
        bottleneck: if given, a linear layer with tanh reduces the concatenated features to this length (the encoder of
            an autoencoder).

    Attributes:
        n_features: length of the feature vector that the head reads.

    Raises:
        ConfigError: a stage is missing or named twice, ``dropout`` is out of range, or ``n_classes`` is below 1.
    """

    def __init__(
        self,
        encoder: Encoder,
        n_classes: int,
        pooled_stages: tuple[int, ...] = (-1,),
        dropout: float = 0.2,
        bottleneck: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout {dropout}", expected="at least 0 and less than 1")
        if n_classes < 1:
            raise ConfigError(f"{n_classes} classes", expected="at least 1")
        self.encoder = encoder
        self.pooled_stages = stages_from_front(pooled_stages, len(encoder.stage_channels))
        joined = sum(encoder.pooled_channels(self.pooled_stages))
        self.n_features = bottleneck or joined
        self.mapping = nn.Sequential(nn.Linear(joined, bottleneck), nn.Tanh()) if bottleneck else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.n_features, n_classes)

    @property
    def encoders(self) -> list[tuple[Encoder, tuple[int, ...]]]:
        """The encoders that see a scan independently, each with its pooled stages; most classifiers have one."""
        return self.encoder.independent_parts(self.pooled_stages)

    def features(self, x: Tensor) -> Tensor:
        """Return features [batch, n_features] of images [batch, channel, depth, height, width]."""
        return self.pool(self.encoder(x))

    def pool(self, maps: list[Tensor]) -> Tensor:
        """Return features [batch, n_features] of the encoder's feature maps."""
        return self.mapping(self.encoder.pool(maps, self.pooled_stages))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [batch, n_classes] of images [batch, channel, depth, height, width]."""
        return self.head(self.dropout(self.features(x)))


def stages_from_front(chosen: tuple[int, ...], available: int, backbone: str = "") -> tuple[int, ...]:
    """Convert stage indices, of which negative ones count from the deepest stage, to non-negative ones.

    Args:
        chosen: indices of stages.
        available: number of stages of the backbone.
        backbone: its name, for the message.

    Raises:
        ConfigError: a stage is missing or named twice, or ``chosen`` is empty.
    """
    stages = tuple(stage + available if stage < 0 else stage for stage in chosen)
    if not stages or len(set(stages)) < len(stages) or not all(0 <= stage < available for stage in stages):
        of = f" for {backbone}" if backbone else ""
        raise ConfigError(
            f"pooled stages {list(chosen)}",
            where="backbone.pooled_stages",
            expected=f"different numbers from {-available} to {available - 1}{of}",
        )
    return stages
