"""How a network of slices or tiles makes one row of features of them, as a config says and a bundle keeps."""

from __future__ import annotations

from typing import Literal, NamedTuple

InstancePooling = Literal["attention", "mean", "max", "mean_max", "log_mean_exp", "top_k"]


class InstanceChoice(NamedTuple):
    """How slices or tiles become one row of features, and which share of a tile's edge its neighbours show too.

    None: as the network does it where nothing is chosen.
    """

    pooling: InstancePooling | None = None
    tile_overlap: float | None = None


AS_BUILT = InstanceChoice()
