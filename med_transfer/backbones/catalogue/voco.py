"""VoCo, Hong Kong University of Science and Technology: Swin transformers pretrained on 160,000 CT scans."""

from __future__ import annotations

from med_transfer.backbones import networks
from med_transfer.backbones.spec import BackboneSpec, InputSpec, WeightsSource
from med_transfer.backbones.weights.renaming import Renaming

_FEATURE_SIZES = {"B": 48, "L": 96, "H": 192}
_PARAMETERS = {"B": 18_637_362, "L": 73_894_914, "H": 294_863_778}
_SELF_SUPERVISED = "160,000 CT without labels (PreCT-160K)"
_OMNI_SUPERVISED = "160,000 CT (PreCT-160K), part of them with pseudo labels of 20 organs and tumours (VoComni)"


def _voco(size: str, name: str, file: str, training_data: str) -> BackboneSpec:
    first = _FEATURE_SIZES[size]
    return BackboneSpec(
        name=name,
        build=lambda: networks.swin_v2(first),
        input=InputSpec(
            1,
            "RAS",
            (-175.0, 250.0),
            (0.0, 1.0),
            minimum_shape=(32, 32, 32),
            spacing_mm=(1.5, 1.5, 1.5),
            shape=(96, 96, 96),
        ),
        stage_channels=tuple(first * 2**level for level in range(5)),
        parameters=_PARAMETERS[size],
        weights=WeightsSource(file, "https://huggingface.co/Luffy503/VoCo"),
        licence="not checked for the weights (code: Apache-2.0)",
        commercial_use=False,
        redistribution=False,
        source="https://github.com/Luffy03/Large-Scale-Medical",
        paper="Wu et al. 2024, arXiv:2410.09890",
        training_data=training_data,
        renaming=Renaming(
            prefixes=("swinViT", "swin_vit"),
            # Convolutions parallel to the transformer, output, and the two projections of the contrastive task
            ignore=(r"(en|de)coder\d+\.", r"out\.", r"(student|teacher)\."),
        ),
        notes=(
            "The licence on the weights' page was not checked, so commercial use counts as not allowed. The "
            "transformer alone; the convolutions of Swin UNETR and its decoder are left out. Spacing and window are "
            "the defaults of the training script."
        ),
    )


SPECS = (
    *(_voco(s, f"voco-{s.lower()}", f"VoCo_{s}_SSL_head.pt", _SELF_SUPERVISED) for s in _FEATURE_SIZES),
    *(_voco(s, f"vocomni-{s.lower()}", f"VoComni_{s}.pt", _OMNI_SUPERVISED) for s in _FEATURE_SIZES),
)
