"""A 3D network on tiles of a scan: it sees a small finding as large as in its training, however large the scan is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from med_transfer.backbones.encoder import Box, ComputedElsewhere, Encoder, Features, Pooled
from med_transfer.backbones.networks.instances import GatedAttention, InstanceEncoder, occupied, spread

_CHUNK_VOXELS = 2**18  # of the tiles that pass the network at once: what 64 x 64 x 64 voxels need in memory


class TileEncoder(InstanceEncoder):
    """Maps [batch, channel, *tiles along each axis]: a voxel of a map is what the network pools of one tile's map.

    Tiles overlap by a share of their edge at least, lie evenly, and reach every edge of the scan. Those that show
    nothing but the scan's background are not computed. The others pass the network in chunks; in training only their
    features are kept and the rest is computed again, so that memory hardly depends on the size of the scan.

    Args:
        tiled: the network, taken over.
        tile_shape: its input (depth, height, width); a scan that is shorter along an axis has shorter tiles.
        overlap: share of a tile's edge, in [0, 1).
    """

    def __init__(self, tiled: Encoder, tile_shape: Sequence[int], overlap: float = 0.25) -> None:
        super().__init__()
        self.tiled, self.tile_shape, self.overlap = tiled, tuple(tile_shape), overlap
        self.stage_channels = tiled.stage_channels
        self.attention = GatedAttention(self.stage_channels[-1])

    def overlap_by(self, share: float) -> None:
        """Choose how much tiles overlap."""
        self.overlap = self.tile_overlap = share

    def stages(self) -> list[nn.Module]:
        """Those of the network."""
        return self.with_attention(self.tiled.stages())

    def core(self, stages: Sequence[int]) -> nn.Module:
        """Tiles to their features of all stages, joined."""
        return Pooled(self.tiled, range(len(self.stage_channels)))

    def with_core(self, core: Features) -> TileEncoder:
        """Itself; which tiles there are, and how they pool, stays here."""
        self.tiled = ComputedElsewhere(self.stage_channels, core)
        return self

    def cuts(self, shape: tuple[int, int, int]) -> list[Box]:
        """The tiles, in the order of the maps' voxels."""
        depths, heights, widths = self._sides(shape)
        return list(itertools.product(depths, heights, widths))

    def taken(self, image: Tensor) -> list[Box]:
        """The tiles that are computed."""
        boxes = super().taken(image)
        return [boxes[place] for place in occupied(image[None], boxes)]

    def instance_features(self, feature_map: Tensor) -> Tensor:
        """Each voxel of a map is a tile."""
        return feature_map.flatten(2).transpose(1, 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """One map a stage; a tile that was not computed is zero in each."""
        depth, height, width = x.shape[2:]
        boxes = self.cuts((depth, height, width))
        places = occupied(x, boxes)
        tiles = [x[place // len(boxes), :, *boxes[place % len(boxes)]] for place in places]
        features = torch.cat([self._computed_again(torch.stack(chunk)) for chunk in self._chunks(tiles)])
        grid = [len(along) for along in self._sides(x.shape[2:])]
        maps = spread(features, places, len(x) * len(boxes)).unflatten(0, (len(x), *grid)).movedim(-1, 1)
        return list(maps.split(self.tiled.pooled_channels(range(len(self.stage_channels))), dim=1))

    def _computed_again(self, tiles: Tensor) -> Tensor:
        """Features of some tiles; what leads to them is computed again for the gradient, and not kept."""
        tiles = tiles.contiguous(memory_format=torch.channels_last_3d)
        if not torch.is_grad_enabled():
            return self._features(tiles)
        contexts = (nullcontext(), _StatisticsKept(self.tiled))
        return checkpoint(self._features, tiles, use_reentrant=False, context_fn=lambda: contexts)

    def _features(self, tiles: Tensor) -> Tensor:
        """[tile, channel] of all stages, joined."""
        return self.tiled.pool(self.tiled(tiles), range(len(self.stage_channels)))

    def _chunks(self, tiles: list[Tensor]) -> list[list[Tensor]]:
        """As many as are needed, of equal size but for one tile: a chunk of one has no batch statistics."""
        n = min(len(tiles), math.ceil(len(tiles) * tiles[0][0].numel() / _CHUNK_VOXELS))
        n = 1 if tiles[0].is_meta else n  # nothing is computed there, so nothing has to be saved
        return [tiles[number * len(tiles) // n : (number + 1) * len(tiles) // n] for number in range(n)]

    def _sides(self, shape: Sequence[int]) -> list[list[slice]]:
        """Along each axis, where tiles begin and end."""
        return [_even(n, min(n, tile), self.overlap) for n, tile in zip(shape, self.tile_shape, strict=True)]


def _even(n: int, size: int, overlap: float) -> list[slice]:
    """Pieces of ``size`` voxels whose neighbours overlap by that share at least; the first and last end at an edge."""
    gaps = math.ceil((n - size) / max(1, int(size * (1 - overlap))))
    starts = [round(number * (n - size) / max(gaps, 1)) for number in range(gaps + 1)]
    return [slice(start, start + size) for start in starts]


class _StatisticsKept:
    """A context in which BatchNorm normalises by each batch but does not count it: it was counted before."""

    def __init__(self, network: nn.Module) -> None:
        self.layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        self.momenta = [layer.momentum for layer in self.layers]

    def __enter__(self) -> None:
        for layer in self.layers:
            layer.momentum = 0.0

    def __exit__(self, *error: object) -> None:
        for layer, momentum in zip(self.layers, self.momenta, strict=True):
            layer.momentum = momentum
