"""STU-Net: residual nnU-Nets in four sizes, trained to segment the 104 structures of TotalSegmentator."""

from __future__ import annotations

from med_transfer.backbones import networks
from med_transfer.backbones.nnunet.plans import Z_SCORE_RANGE, Z_SCORE_WINDOW_HU
from med_transfer.backbones.spec import BackboneSpec, InputSpec, WeightsSource
from med_transfer.backbones.weights.renaming import Renaming

_SIZES = {  # size: channels of the stages, blocks per stage, parameters of the encoder
    "small": ((16, 32, 64, 128, 256, 256), 1, 7_185_744),
    "base": ((32, 64, 128, 256, 512, 512), 1, 28_731_552),
    "large": ((64, 128, 256, 512, 1024, 1024), 2, 246_968_256),
    "huge": ((96, 192, 384, 768, 1536, 1536), 3, 852_780_384),
}


def _stunet(size: str) -> BackboneSpec:
    widths, depth, parameters = _SIZES[size]
    return BackboneSpec(
        name=f"stunet-{size}",
        build=lambda: networks.STUNetEncoder(widths, depth),
        input=InputSpec(
            channels=1,
            orientation="SAR",
            window_hu=Z_SCORE_WINDOW_HU,
            output_range=Z_SCORE_RANGE,
            minimum_shape=(64, 64, 64),
            spacing_mm=(1.5, 1.5, 1.5),
            shape=(128, 128, 128),
        ),
        stage_channels=widths[1:],
        parameters=parameters,
        weights=WeightsSource(file=f"{size}_ep4k.model", url="https://github.com/uni-medical/STU-Net"),
        licence="not stated for the weights (code: Apache-2.0)",
        commercial_use=False,
        redistribution=False,
        renaming=Renaming(ignore=(r"(upsample_layers|conv_blocks_localization|seg_outputs)\.",)),
        source="https://github.com/uni-medical/STU-Net",
        paper="Huang et al. 2023, STU-Net, arXiv:2304.06716",
        training_data="1,204 CT scans of TotalSegmentator v1, supervised segmentation of 104 structures",
        notes=(
            "The plans.pkl in the authors' repository names the normalisation nonCT: a z-score of each scan, which the "
            "window given here approximates. The orientation is not stated: that of RAS NIfTI files as nnU-Net reads "
            "them is taken; the network was trained with mirroring along every axis."
        ),
    )


SPECS = (*map(_stunet, _SIZES),)
