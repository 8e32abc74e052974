"""The Swin transformer of Swin UNETR, as its published weights were trained.

MONAI corrected its patch merging in version 1.5 (pull request 8285): before, two of the eight neighbours of a 2x2x2
block were used twice and two never. Names and shapes did not change, so an older file loads into the corrected network
without error, but gives other features. All weights in the catalogue are older, so this module uses the merging that
they were trained with, regardless of the installed version of MONAI.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.blocks.patchembedding import PatchEmbed
from monai.networks.blocks.unetr_block import UnetrBasicBlock
from monai.networks.nets.swin_unetr import BasicLayer, PatchMergingV2
from torch import Tensor, nn

from med_transfer.backbones.encoder import Encoder

_HEADS = (3, 6, 12, 24)
_BLOCKS = 2  # of the transformer, in each stage
_WINDOW = (7, 7, 7)
_OFFSETS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))


class PatchMergingBefore15(PatchMergingV2):
    """Patch merging as in MONAI before 1.5: uses voxels (0, 1, 0) and (0, 0, 1) of a block twice, two others never."""

    def forward(self, x: Tensor) -> Tensor:
        """Halve the size and double the channels of [batch, depth, height, width, channel]."""
        depth, height, width = x.shape[1:4]
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2, 0, depth % 2))
        x = torch.cat([x[:, i::2, j::2, k::2] for i, j, k in _OFFSETS], dim=-1)
        return self.reduction(self.norm(x))


class SwinEncoder(Encoder):
    """A Swin transformer: maps at 1/2 (the embedded patches), 1/4, 1/8, 1/16 and 1/32 of the input.

    Each map is normalised over its channels, without parameters, as the decoder of Swin UNETR receives it. Sides that
    are not multiples of 32 are zero-padded internally.

    Args:
        feature_size: channels of the first map, doubled by each following one.
        residual: whether a residual block of convolutions precedes each stage (version 2).
    """

    def __init__(self, feature_size: int, residual: bool = False) -> None:
        super().__init__()
        self.stage_channels = tuple(feature_size * 2**level for level in range(5))
        self.residual = residual
        self.patch_embed = PatchEmbed(patch_size=2, in_chans=1, embed_dim=feature_size, norm_layer=None)  # type: ignore[arg-type]
        self.embedded = nn.Identity()
        for level, (channels, heads) in enumerate(zip(self.stage_channels, _HEADS, strict=False), start=1):
            layer = BasicLayer(
                channels,
                _BLOCKS,
                heads,
                _WINDOW,
                [0.0] * _BLOCKS,
                qkv_bias=True,
                downsample=PatchMergingBefore15,  # type: ignore[arg-type]
            )
            self.add_module(f"layers{level}", nn.ModuleList([layer]))  # the names are MONAI's
            if residual:
                block = UnetrBasicBlock(3, channels, channels, 3, 1, norm_name="instance", res_block=True)
                self.add_module(f"layers{level}c", nn.ModuleList([block]))

    def stages(self) -> list[nn.Module]:
        """Return the patch embedding as the stem, then the stages; the first, whose map is the embedding, is empty."""
        return [self.patch_embed, self.embedded, *(nn.Sequential(*modules) for modules in self._levels())]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return five maps, each normalised over its channels."""
        x = self.embedded(self.patch_embed(x))
        maps = [_normalised(x)]
        for modules in self._levels():
            for module in modules:
                x = module(x.contiguous())
            maps.append(_normalised(x))
        return maps

    def _levels(self) -> list[list[nn.Module]]:
        """Modules that compute each map from the previous one."""
        parts = ("layers{}c.0", "layers{}.0") if self.residual else ("layers{}.0",)
        return [[self.get_submodule(part.format(level)) for part in parts] for level in range(1, 1 + len(_HEADS))]


def _normalised(x: Tensor) -> Tensor:
    return F.layer_norm(x.movedim(1, -1), [x.shape[1]]).movedim(-1, 1)


def swin_v1(feature_size: int = 48) -> SwinEncoder:
    """Return Swin UNETR's transformer.

    Source: Hatamizadeh et al. 2022, arXiv:2201.01266; weights of Tang et al. 2022, arXiv:2111.14791.
    """
    return SwinEncoder(feature_size)


def swin_v2(feature_size: int = 48) -> SwinEncoder:
    """Return SwinUNETR-V2's transformer, with a residual convolution block (instance normalisation) before each stage.

    Source: He et al. 2023, MICCAI, SwinUNETR-V2.
    """
    return SwinEncoder(feature_size, residual=True)
