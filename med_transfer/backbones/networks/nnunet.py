"""The encoders that nnU-Net v2 builds from a plan: plain convolutions, or residual blocks (ResEnc).

Tensor names are those of nnU-Net, with ``context`` for ``stages``, since every encoder here has a method of that name:
``context.0.0.convs.0.conv`` (plain), ``stem.convs.0.conv`` and ``context.0.blocks.0.conv1.conv`` (residual).
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from med_transfer.backbones.encoder import Encoder
from med_transfer.backbones.nnunet.plan import UNetArchitecture


class NNUNetEncoder(Encoder):
    """The contracting path of an nnU-Net. The stem is the first stage (plain) or the stem convolution (residual).

    Source: Isensee et al. 2021, doi:10.1038/s41592-020-01008-z; Isensee et al. 2024, arXiv:2404.09556 (residual);
    github MIC-DKFZ/dynamic-network-architectures.
    """

    def __init__(self, architecture: UNetArchitecture) -> None:
        super().__init__()
        residual = architecture.kind == "residual"
        self.stem = _stack(architecture, 0, 1, 1, (1, 1, 1)) if residual else None
        self.context = nn.Sequential()
        given = architecture.widths[0] if residual else 1
        for stage, width in enumerate(architecture.widths):
            make = _blocks if residual else _convolutions
            self.context.append(make(architecture, stage, given))
            given = width
        self.stage_channels = architecture.widths if residual else architecture.widths[1:]

    def stages(self) -> list[nn.Module]:
        """Return the stem convolution if there is one, then a module per resolution."""
        return list(self.context) if self.stem is None else [self.stem, *self.context]


class _ResidualBlock(nn.Module):
    """Two convolutions; the shortcut averages if the block strides, and projects if it widens (ResNet-D)."""

    def __init__(self, plan: UNetArchitecture, stage: int, given: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        made = plan.widths[stage]
        self.conv1 = _convolution(plan, given, made, plan.kernels[stage], stride)
        self.conv2 = _convolution(plan, made, made, plan.kernels[stage], active=False)
        self.skip = nn.Sequential()
        if stride != (1, 1, 1):
            # Sizes not divisible by the stride are rounded up, like in the convolution; nnU-Net itself fails there.
            self.skip.append(nn.AvgPool3d(stride, stride, ceil_mode=True))
        if given != made:
            self.skip.append(_convolution(plan.model_copy(update={"conv_bias": False}), given, made, active=False))
        self.act = nn.LeakyReLU(plan.slope)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv2(self.conv1(x)) + self.skip(x))


def _blocks(plan: UNetArchitecture, stage: int, given: int) -> nn.Module:
    made = plan.widths[stage]
    first = _ResidualBlock(plan, stage, given, plan.strides[stage])
    rest = [_ResidualBlock(plan, stage, made, (1, 1, 1)) for _ in range(plan.repeats[stage] - 1)]
    return nn.Sequential(OrderedDict(blocks=nn.Sequential(first, *rest)))


def _convolutions(plan: UNetArchitecture, stage: int, given: int) -> nn.Module:
    return nn.Sequential(_stack(plan, stage, given, plan.repeats[stage], plan.strides[stage]))


def _stack(plan: UNetArchitecture, stage: int, given: int, number: int, stride: tuple[int, int, int]) -> nn.Module:
    made, kernel = plan.widths[stage], plan.kernels[stage]
    first = _convolution(plan, given, made, kernel, stride)
    rest = [_convolution(plan, made, made, kernel) for _ in range(number - 1)]
    return nn.Sequential(OrderedDict(convs=nn.Sequential(first, *rest)))


def _convolution(
    plan: UNetArchitecture,
    given: int,
    made: int,
    kernel: tuple[int, int, int] = (1, 1, 1),
    stride: tuple[int, int, int] = (1, 1, 1),
    active: bool = True,
) -> nn.Module:
    """Convolution with size-preserving padding, normalisation, and, if ``active``, leaky ReLU."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    norm = nn.InstanceNorm3d if plan.norm == "instance" else nn.BatchNorm3d
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv3d(given, made, kernel, stride, padding, bias=plan.conv_bias),
        norm=norm(made, eps=plan.norm_eps, affine=plan.norm_affine),
    )
    if active:
        parts["act"] = nn.LeakyReLU(plan.slope)
    return nn.Sequential(parts)
