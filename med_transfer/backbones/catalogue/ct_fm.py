"""CT-FM, project Lighter: a contrastive foundation model pretrained on 148,000 CT scans."""

from __future__ import annotations

from med_transfer.backbones import networks
from med_transfer.backbones.spec import BackboneSpec, InputSpec, WeightsSource
from med_transfer.backbones.weights.renaming import Renaming


def _ct_fm(name: str, repository: str, notes: str) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        build=lambda: networks.ct_fm(),
        input=InputSpec(
            1,
            "SPL",
            (-1024.0, 2048.0),
            (0.0, 1.0),
            minimum_shape=(16, 16, 16),
            spacing_mm=(3.0, 1.0, 1.0),
            shape=(24, 128, 128),
        ),
        stage_channels=(32, 64, 128, 256, 512),
        parameters=77_760_992,
        # Both repositories name their file model.safetensors; the folder distinguishes them
        weights=WeightsSource(
            f"{repository}/model.safetensors", f"https://huggingface.co/project-lighter/{repository}"
        ),
        licence="Apache-2.0 (as stated on the model card)",
        commercial_use=True,
        source="https://github.com/project-lighter/CT-FM",
        paper="Pai et al. 2025, arXiv:2501.09001",
        training_data="148,000 CT of the whole body, without labels (intra-sample SimCLR)",
        renaming=Renaming(ignore=(r"up_layers\.", r"head_module\.")),
        notes=(
            f"{notes}Spacing and shape are those of the pretraining; the model cards do not name them. Scans are "
            "cropped to the body."
        ),
    )


SPECS = (
    _ct_fm("ct-fm", "ct_fm_feature_extractor", ""),
    _ct_fm("ct-fm-segresnet", "ct_fm_segresnet", "The file's decoder is left out. "),
)
