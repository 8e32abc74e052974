"""Swin UNETR's transformer, pretrained with self-supervision by NVIDIA and published with MONAI."""

from __future__ import annotations

from med_transfer.backbones import networks
from med_transfer.backbones.spec import BackboneSpec, InputSpec, WeightsSource
from med_transfer.backbones.weights.renaming import Renaming

_RELEASE = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/tag/0.8.1"
_NO_LICENCE = (
    "The code is under Apache-2.0, but no licence of the weights was found: ask the authors before commercial use or "
    "passing them on. The spacing of the training scans is not stated."
)
# Their scripts name the layers of the MLP fc1 and fc2
_PERCEPTRON = (r"\.mlp\.fc(\d)\.", r".mlp.linear\1.")


def _swin(name: str, **facts) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        build=lambda: networks.swin_v1(),
        input=InputSpec(1, "RAS", (-1000.0, 1000.0), (0.0, 1.0), minimum_shape=(32, 32, 32), shape=(96, 96, 96)),
        stage_channels=(48, 96, 192, 384, 768),
        parameters=8_062_002,
        licence="none stated for the weights (code: Apache-2.0)",
        commercial_use=False,
        redistribution=False,
        **facts,
    )


_5K = _swin(
    "swin-ssl-5k",
    weights=WeightsSource("model_swinvit.pt", _RELEASE),
    renaming=Renaming(
        prefixes=("swinViT",),
        replace=(_PERCEPTRON,),
        ignore=(r"(rotation|contrastive)_(pre|head)\.", r"conv\.", r"norm\."),  # the heads of the three pretext tasks
    ),
    source="https://github.com/Project-MONAI/research-contributions/tree/main/SwinUNETR/Pretrain",
    paper="Tang et al. 2022, arXiv:2111.14791",
    training_data="5,050 public CT of several regions of the body, without labels",
    notes=_NO_LICENCE,
)

_50K = _swin(
    "swin-ssl-50k",
    weights=WeightsSource("ssl_pretrained_weights.pth", _RELEASE),
    renaming=Renaming(
        prefixes=("swinViT",),
        # The pretraining code wraps each stage in one more module: layers1.0.0.blocks...
        replace=((r"^(layers\d\.0)\.\w\.", r"\1."), _PERCEPTRON),
        ignore=(r"mask_token$", r"layers\.\d", r"norm\.(weight|bias)$", r"out\.", r"(conv|transp_conv|upsample)\w*\."),
    ),
    source="https://github.com/Project-MONAI/research-contributions/tree/main/DAE",
    paper="Valanarasu et al. 2023, Disruptive Autoencoders, arXiv:2307.16896",
    training_data="about 50,000 scans, by their publisher's word (CT; the method also takes MR), without labels",
    notes=f"{_NO_LICENCE} In the pretraining the maps were passed on without the normalisation that Swin UNETR adds.",
)

SPECS = (_5K, _50K)
