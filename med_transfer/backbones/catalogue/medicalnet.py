"""MedicalNet (Med3D), Tencent: residual networks trained for segmentation on many public data sets."""

from __future__ import annotations

from med_transfer.backbones import networks
from med_transfer.backbones.spec import BackboneSpec, InputSpec, WeightsSource

_PARAMETERS = {
    10: 14_355_520,
    18: 32_986_176,
    34: 63_295_808,
    50: 46_155_072,
    101: 85_201_216,
    152: 117_359_936,
    200: 126_559_552,
}
_ON_23_DATA_SETS = (10, 18, 34, 50)


def _medicalnet(depth: int) -> BackboneSpec:
    return BackboneSpec(
        name=f"medicalnet-resnet{depth}",
        build=lambda: networks.medicalnet(depth),
        # Trained on z-scores. A clipped CT of the trunk has a standard deviation of 400 to 500 HU, so HU / 500 has
        # about the unit variance that the first layers were trained on.
        input=InputSpec(1, "SPL", (-1000.0, 1000.0), (-2.0, 2.0), minimum_shape=(8, 8, 8)),
        stage_channels=(256, 512, 1024, 2048) if depth >= 50 else (64, 128, 256, 512),
        parameters=_PARAMETERS[depth],
        weights=_files(depth),
        licence="MIT",
        commercial_use=True,
        source="https://github.com/Tencent/MedicalNet",
        paper="Chen et al. 2019, Med3D, arXiv:1904.00625",
        training_data=_training_data(depth),
        notes=(
            "The authors prescribe no orientation, spacing or window: those given here are this program's choice. "
            "Their demonstration resizes the whole volume to 56 x 448 x 448 and takes z-scores over its foreground."
        ),
    )


def _files(depth: int) -> WeightsSource:
    names = (f"resnet_{depth}_23dataset.pth", f"resnet_{depth}.pth")
    file, *others = names if depth in _ON_23_DATA_SETS else names[1:]
    url = f"https://huggingface.co/TencentMedicalNet/MedicalNet-Resnet{depth}"
    return WeightsSource(file, url, other_files=tuple(others))


def _training_data(depth: int) -> str:
    earlier = "the 8 public CT and MR segmentation data sets of the paper (not stated for each file)"
    if depth not in _ON_23_DATA_SETS:
        return earlier
    return f"23 public CT and MR segmentation data sets; resnet_{depth}.pth: {earlier}"


SPECS = (*map(_medicalnet, _PARAMETERS),)
