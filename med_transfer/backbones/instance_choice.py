"""How slices or tiles are pooled to one feature vector, as set in a config and stored in a bundle."""

from __future__ import annotations

from typing import Literal, NamedTuple

InstancePooling = Literal["attention", "mean", "max", "mean_max", "log_mean_exp", "top_k"]


class InstanceChoice(NamedTuple):
    """How slices or tiles are pooled, and how much neighbouring tiles overlap, as a share of their edge.

    None stands for the network's default.
    """

    pooling: InstancePooling | None = None
    tile_overlap: float | None = None


MAX_TILE_OVERLAP = 0.75  # more would cut one scan into hundreds of tiles
AS_BUILT = InstanceChoice()
