"""3D versions of timm's own layers whose forward pass is written for two dimensions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from med_transfer.backbones.networks.inflation import Rule, ToVolume


class NormAct3d(_BatchNorm):
    """Batch normalisation with activation, like timm's. Not a BatchNorm3d: folding one would drop the activation."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.load_state_dict(norm.state_dict())
        self.drop, self.act = norm.drop, norm.act

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any input; the rules below build this layer for volumes only."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise, then apply timm's dropout and activation."""
        return self.act(self.drop(super().forward(input)))  # type: ignore[operator]


class ChannelNorm3d(nn.LayerNorm):
    """Layer normalisation over the channels of [batch, channel, depth, height, width]."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__(norm.normalized_shape, norm.eps, norm.elementwise_affine)  # type: ignore[arg-type]
        self.load_state_dict(norm.state_dict())

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each voxel over its channels."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class ConvNeXtBlock3d(nn.Module):
    """ConvNeXt's block: depthwise convolution, then normalisation and an MLP over the channels of each voxel."""

    def __init__(self, block: nn.Module, to: ToVolume) -> None:
        super().__init__()
        self.conv_dw, self.norm, self.mlp = to(block.conv_dw), block.norm, block.mlp  # type: ignore[arg-type]
        self.gamma, self.drop_path = block.gamma, block.drop_path

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        y = self.mlp(self.norm(self.conv_dw(x).movedim(1, -1)))  # type: ignore[operator]
        y = y if self.gamma is None else y * self.gamma
        return x + self.drop_path(y.movedim(-1, 1))  # type: ignore[operator]


class SqueezeExcite3d(nn.Module):
    """Squeeze-and-excitation: channel weights from means over the whole volume. Hu et al. 2018, arXiv:1709.01507."""

    def __init__(self, block: nn.Module, to: ToVolume) -> None:
        super().__init__()
        self.conv_reduce, self.conv_expand = to(block.conv_reduce), to(block.conv_expand)  # type: ignore[arg-type]
        self.act1, self.gate = block.act1, block.gate

    def forward(self, x: Tensor) -> Tensor:
        """Return the map with each channel multiplied by its weight in [0, 1]."""
        squeezed = self.act1(self.conv_reduce(x.mean((2, 3, 4), keepdim=True)))  # type: ignore[operator]
        return x * self.gate(self.conv_expand(squeezed))  # type: ignore[operator]


def timm_rules() -> dict[type, Rule]:
    """Return the rules for ResNets, EfficientNets and ConvNeXts of timm."""
    from timm.layers.conv2d_same import Conv2dSame  # slow to import, and most networks do not need it
    from timm.layers.drop import DropPath
    from timm.layers.norm import LayerNorm2d
    from timm.layers.norm_act import BatchNormAct2d
    from timm.models._efficientnet_blocks import SqueezeExcite
    from timm.models.convnext import ConvNeXtBlock

    return {
        Conv2dSame: lambda conv, to: to.convolution(conv, flat=to.flat, same=True),
        BatchNormAct2d: lambda norm, to: NormAct3d(norm),
        LayerNorm2d: lambda norm, to: ChannelNorm3d(norm),
        DropPath: lambda drop, to: drop,
        SqueezeExcite: SqueezeExcite3d,
        ConvNeXtBlock: ConvNeXtBlock3d,
    }
