"""SuPreM, Johns Hopkins University: networks trained to segment AbdomenAtlas 1.1."""

from __future__ import annotations

from med_transfer.backbones import networks
from med_transfer.backbones.spec import BackboneSpec, InputSpec, WeightsSource
from med_transfer.backbones.weights.renaming import Renaming

_COMMON = {
    "licence": "CC BY-NC-ND 4.0 (Johns Hopkins University)",
    "commercial_use": False,
    "redistribution": False,
    "must_accept": True,
    "source": "https://github.com/MrGiovanni/SuPreM",
    "paper": "Li et al. 2024, ICLR, How Well Do Supervised 3D Models Transfer to Medical Imaging Tasks?",
    "training_data": "2,100 abdominal CT of AbdomenAtlas 1.1 with 25 structures drawn",
}
_LICENCE_NOTE = (
    "No derivatives: a network fine-tuned from these weights must not be passed on. The licence names pending patents. "
    "The authors crop scans to the foreground."
)


def _input(minimum: int) -> InputSpec:
    return InputSpec(
        1,
        "RAS",
        (-175.0, 250.0),
        (0.0, 1.0),
        minimum_shape=(minimum, minimum, minimum),
        spacing_mm=(1.5, 1.5, 1.5),
        shape=(96, 96, 96),
    )


def _weights(network: str) -> WeightsSource:
    return WeightsSource(f"supervised_suprem_{network}_2100.pth", "https://huggingface.co/MrGiovanni/SuPreM")


_SEGRESNET = BackboneSpec(
    name="suprem-segresnet",
    build=lambda: networks.plain_segresnet(16),
    input=_input(8),
    stage_channels=(16, 32, 64, 128),
    parameters=4_399_344,
    weights=_weights("segresnet"),
    renaming=Renaming(ignore=(r"up_layers\.", r"up_samples\.", r"conv_final\.")),
    notes=_LICENCE_NOTE,
    **_COMMON,
)

_SWIN = BackboneSpec(
    name="suprem-swinunetr",
    build=lambda: networks.swin_v1(),
    input=_input(32),
    stage_channels=(48, 96, 192, 384, 768),
    parameters=8_062_002,
    weights=_weights("swinunetr"),
    renaming=Renaming(
        prefixes=("swinViT",),
        ignore=(
            r"(en|de)coder\d+\.",
            r"out\.",  # convolutions parallel to the transformer, and the output
            r"(precls_conv|GAP|controller|text_to_vision)\.",
            r"organ_embedding",  # one head for all organs
        ),
    ),
    notes=f"The transformer alone; the convolutions of Swin UNETR and its decoder are left out. {_LICENCE_NOTE}",
    **_COMMON,
)

SPECS = (_SEGRESNET, _SWIN)
