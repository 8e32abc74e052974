"""Encoders of the two segmentation networks called SegResNet, both from MONAI.

The older one (SuPreM, MONAI's whole-body bundle) and SegResNetDS (CT-FM, VISTA3D) share the design, pre-activation
residual blocks, but differ in tensor names. The names do not fully determine the normalisation, as affine instance and
group normalisation have the same tensors. Each builder therefore states it.

Source: Myronenko 2018, arXiv:1810.11654.
"""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.segresnet_ds import SegResEncoder
from torch import nn

from med_transfer.backbones.encoder import Encoder

_DS_BLOCKS = (1, 2, 2, 4, 4)  # residual blocks of each resolution in CT-FM and VISTA3D


class SegResNetEncoder(Encoder):
    """The encoder of MONAI's SegResNet: a map at full resolution, then each at half of the previous one.

    Its dropout after the first convolution is dropped: it has no effect in evaluation, and the classifier has its own.
    """

    def __init__(self, net: SegResNet) -> None:
        super().__init__()
        self.convInit, self.down_layers = net.convInit, net.down_layers
        self.stage_channels = tuple(net.init_filters * 2**level for level in range(len(net.blocks_down)))

    def stages(self) -> list[nn.Module]:
        """Return the first convolution, then the blocks of each resolution, finest first."""
        return [self.convInit, *self.down_layers]


class SegResNetDSEncoder(SegResEncoder, Encoder):
    """The encoder of MONAI's SegResNetDS: a map at full resolution, then each at half of the previous one."""

    def __init__(self, init_filters: int, norm: str) -> None:
        super().__init__(init_filters=init_filters, blocks_down=_DS_BLOCKS, norm=norm)
        self.stage_channels = tuple(init_filters * 2**level for level in range(len(_DS_BLOCKS)))

    def stages(self) -> list[nn.Module]:
        """Return stages of a downsampling convolution and blocks; MONAI stores the former with the level above."""
        down = [nn.Identity(), *(level["downsample"] for level in self.layers)]  # type: ignore[index]
        blocks = [level["blocks"] for level in self.layers]  # type: ignore[index]
        return [self.conv_init, *(nn.Sequential(*pair) for pair in zip(down[:-1], blocks, strict=True))]


def plain_segresnet(init_filters: int, blocks: Sequence[int] = (1, 2, 2, 4)) -> SegResNetEncoder:
    """Return a SegResNet encoder with group normalisation in 8 groups; maps at 1/1 to 1/8 of the input."""
    return SegResNetEncoder(SegResNet(spatial_dims=3, init_filters=init_filters, blocks_down=tuple(blocks)))


def ct_fm(init_filters: int = 32) -> SegResNetDSEncoder:
    """Return CT-FM's encoder, with batch normalisation; maps at 1/1 to 1/16 of the input.

    Source: Pai et al. 2025, arXiv:2501.09001.
    """
    return SegResNetDSEncoder(init_filters, "batch")


def vista3d(init_filters: int = 48) -> SegResNetDSEncoder:
    """Return VISTA3D's image encoder, with affine instance normalisation; maps at 1/1 to 1/16 of the input.

    Source: He et al. 2024, arXiv:2406.05285.
    """
    return SegResNetDSEncoder(init_filters, "instance")
