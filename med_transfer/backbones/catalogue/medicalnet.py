"""MedicalNet (Med3D), Tencent: residual networks trained to segment 23 data sets."""

from __future__ import annotations

from functools import partial

from med_transfer.backbones.networks.resnet import medicalnet
from med_transfer.backbones.spec import BackboneSpec, InputSpec, WeightsSource

_PARAMETERS = {10: 14_355_520, 18: 32_986_176, 34: 63_295_808, 50: 46_155_072}


def _medicalnet(depth: int) -> BackboneSpec:
    return BackboneSpec(
        name=f"medicalnet-resnet{depth}",
        build=partial(medicalnet, depth),
        # Trained on z-scores. A clipped CT of the trunk has a standard deviation of 400 to 500 HU, so that about
        # HU / 500 has the unit variance that the first layers were trained for.
        input=InputSpec(1, "SPL", (-1000.0, 1000.0), (-2.0, 2.0), minimum_shape=(8, 8, 8)),
        stage_channels=(256, 512, 1024, 2048) if depth >= 50 else (64, 128, 256, 512),
        parameters=_PARAMETERS[depth],
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


SPECS = (*map(_medicalnet, _PARAMETERS),)
