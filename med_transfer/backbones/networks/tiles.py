"""A 3D network applied to tiles of a scan, so that findings keep the scale of its training in scans of any size."""

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

_CHUNK_VOXELS = 2**18  # voxels of the tiles processed at once: the memory of 64 x 64 x 64 voxels


class TileEncoder(InstanceEncoder):
    """Maps [batch, channel, *tiles along each axis], of which each voxel holds the pooled features of one tile.

    Tiles are evenly spaced, overlap by at least a share of their edge, and reach every edge of the scan. Tiles of
    background only are skipped. The others are processed in chunks; in training only their features are kept and
    activations are recomputed, so that memory hardly depends on the size of the scan.

    Args:
        tiled: the network, taken over.
        tile_shape: its input (depth, height, width); a scan that is shorter along an axis has shorter tiles.
        overlap: least overlap as a share of a tile's edge, in [0, 1).
    """

    def __init__(self, tiled: Encoder, tile_shape: Sequence[int], overlap: float = 0.25) -> None:
        super().__init__()
        self.tiled, self.tile_shape, self.overlap = tiled, tuple(tile_shape), overlap
        self.stage_channels = tiled.stage_channels
        self.attention = GatedAttention(self.stage_channels[-1])

    def overlap_by(self, share: float) -> None:
        """Set the least overlap of tiles, as a share of their edge."""
        self.overlap = self.tile_overlap = share

    def stages(self) -> list[nn.Module]:
        """Return the stages of the network; the attention belongs to the last one."""
        return self.with_attention(self.tiled.stages())

    def core(self, stages: Sequence[int]) -> nn.Module:
        """Return a module from tiles to their features of all stages, concatenated."""
        return Pooled(self.tiled, range(len(self.stage_channels)))

    def with_core(self, core: Features) -> TileEncoder:
        """Replace the network by ``core`` and return self; cutting into tiles and pooling stay here."""
        self.tiled = ComputedElsewhere(self.stage_channels, core)
        return self

    def cuts(self, shape: tuple[int, int, int]) -> list[Box]:
        """Return the tiles, in the order of the maps' voxels."""
        depths, heights, widths = self._sides(shape)
        return list(itertools.product(depths, heights, widths))

    def occupied_cuts(self, image: Tensor) -> list[Box]:
        """Return the tiles that are not skipped."""
        boxes = super().occupied_cuts(image)
        return [boxes[place] for place in occupied(image[None], boxes)]

    def instance_features(self, feature_map: Tensor) -> Tensor:
        """Return the features of each tile, [batch, tile, channel]; each voxel of a map is a tile."""
        return feature_map.flatten(2).transpose(1, 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return one map per stage; skipped tiles are zero."""
        depth, height, width = x.shape[2:]
        boxes = self.cuts((depth, height, width))
        places = occupied(x, boxes)
        tiles = [x[place // len(boxes), :, *boxes[place % len(boxes)]] for place in places]
        features = torch.cat([self._checkpointed_features(torch.stack(chunk)) for chunk in self._chunks(tiles)])
        grid = [len(along) for along in self._sides(x.shape[2:])]
        maps = spread(features, places, len(x) * len(boxes)).unflatten(0, (len(x), *grid)).movedim(-1, 1)
        return list(maps.split(self.tiled.pooled_channels(range(len(self.stage_channels))), dim=1))

    def _checkpointed_features(self, tiles: Tensor) -> Tensor:
        """Features of some tiles, with activations recomputed for the gradient (checkpointing)."""
        tiles = tiles.contiguous(memory_format=torch.channels_last_3d)
        if not torch.is_grad_enabled():
            return self._features(tiles)
        contexts = (nullcontext(), _FixedStatistics(self.tiled))
        return checkpoint(self._features, tiles, use_reentrant=False, context_fn=lambda: contexts)

    def _features(self, tiles: Tensor) -> Tensor:
        """Features [tile, channel] of all stages, concatenated."""
        return self.tiled.pool(self.tiled(tiles), range(len(self.stage_channels)))

    def _chunks(self, tiles: list[Tensor]) -> list[list[Tensor]]:
        """Divide tiles into chunks whose sizes differ by at most one; one tile alone has no batch statistics."""
        n = min(len(tiles), math.ceil(len(tiles) * tiles[0][0].numel() / _CHUNK_VOXELS))
        n = 1 if tiles[0].is_meta else n  # needs no memory
        return [tiles[number * len(tiles) // n : (number + 1) * len(tiles) // n] for number in range(n)]

    def _sides(self, shape: Sequence[int]) -> list[list[slice]]:
        """Extents of the tiles along each axis."""
        return [_even(n, min(n, tile), self.overlap) for n, tile in zip(shape, self.tile_shape, strict=True)]


def _even(n: int, size: int, overlap: float) -> list[slice]:
    """Evenly spaced extents of ``size`` voxels that overlap by at least this share and reach both edges."""
    gaps = math.ceil((n - size) / max(1, int(size * (1 - overlap))))
    starts = [round(number * (n - size) / max(gaps, 1)) for number in range(gaps + 1)]
    return [slice(start, start + size) for start in starts]


class _FixedStatistics:
    """Context in which BatchNorm does not update running statistics: the recomputed batch was counted before."""

    def __init__(self, network: nn.Module) -> None:
        self.layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        self.momenta = [layer.momentum for layer in self.layers]

    def __enter__(self) -> None:
        for layer in self.layers:
            layer.momentum = 0.0

    def __exit__(self, *error: object) -> None:
        for layer, momentum in zip(self.layers, self.momenta, strict=True):
            layer.momentum = momentum
