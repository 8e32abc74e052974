"""Networks of MONAI's model zoo, from the weights file of each bundle.

Inside a bundle every file is called ``model.pt``; the names here are those on NVIDIA's server. The publisher states MD5
instead of SHA-256 checksums, so they are not pinned.
"""

from __future__ import annotations

from med_transfer.backbones import networks
from med_transfer.backbones.spec import BackboneSpec, InputSpec, WeightsSource
from med_transfer.backbones.weights.renaming import Renaming

_SERVER = "https://developer.download.nvidia.com/assets/Clara/monai/tutorials/model_zoo/"
_ZOO = "https://github.com/Project-MONAI/model-zoo/tree/dev/models/"


def _weights(file: str) -> WeightsSource:
    return WeightsSource(file, _SERVER + file)


def _whole_body(spacing_mm: float, file: str) -> BackboneSpec:
    return BackboneSpec(
        name=f"wholebody-segresnet-{spacing_mm:g}mm",
        build=lambda: networks.plain_segresnet(32),
        input=InputSpec(
            1,
            "RAS",
            (-1024.0, 2048.0),
            (-1.0, 1.0),
            minimum_shape=(8, 8, 8),
            spacing_mm=(spacing_mm, spacing_mm, spacing_mm),
            shape=(96, 96, 96),
        ),
        stage_channels=(32, 64, 128, 256),
        parameters=17_590_752,
        weights=_weights(file),
        renaming=Renaming(ignore=(r"up_layers\.", r"up_samples\.", r"conv_final\.")),
        licence="Apache-2.0",
        commercial_use=True,
        source=f"{_ZOO}wholeBody_ct_segmentation",
        paper="Myronenko 2018, arXiv:1810.11654; Wasserthal et al. 2023, TotalSegmentator, arXiv:2208.05868",
        training_data="CT of the TotalSegmentator data set with 104 structures drawn",
        notes=(
            "The bundle maps the lowest and highest value of each scan to -1 and 1. A crop does not know those, so "
            "that this program takes a fixed window instead, wide enough for air and bone: its choice."
        ),
    )


_NODULES = BackboneSpec(
    name="lung-nodule-resnet50",
    build=lambda: networks.NoduleDetectorEncoder(),
    input=InputSpec(
        1,
        "RAS",
        (-1024.0, 300.0),
        (0.0, 1.0),
        minimum_shape=(8, 8, 4),
        spacing_mm=(0.703125, 0.703125, 1.25),
        shape=(192, 192, 80),
    ),
    stage_channels=(256, 512),
    parameters=2_859_072,
    weights=_weights("model_lung_nodule_ct_detection.pt"),
    renaming=Renaming(
        prefixes=("feature_extractor", "body"), ignore=(r"fpn\.", r"classification_head\.", r"regression_head\.")
    ),
    licence="Apache-2.0",
    commercial_use=True,
    source=f"{_ZOO}lung_nodule_ct_detection",
    paper="Lin et al. 2017, RetinaNet, arXiv:1708.02002; Setio et al. 2017, LUNA16, arXiv:1612.08012",
    training_data="chest CT of LUNA16 (from LIDC-IDRI), lung nodules boxed; fold 0",
    notes=(
        "The file holds a ResNet-50 only up to its second stage, and so does this encoder. Trained on LIDC-IDRI: a "
        "cohort from that collection is no independent test of it."
    ),
)

_BTCV = BackboneSpec(
    name="swin-btcv",
    build=lambda: networks.swin_v1(),
    input=InputSpec(
        1,
        "RAS",
        (-175.0, 250.0),
        (0.0, 1.0),
        minimum_shape=(32, 32, 32),
        spacing_mm=(1.5, 1.5, 2.0),
        shape=(96, 96, 96),
    ),
    stage_channels=(48, 96, 192, 384, 768),
    parameters=8_062_002,
    weights=_weights("model_swin_unetr_btcv_segmentation_v1.pt"),
    renaming=Renaming(prefixes=("swinViT",), ignore=(r"(en|de)coder\d+\.", r"out\.")),
    licence="Apache-2.0",
    commercial_use=True,
    source=f"{_ZOO}swin_unetr_btcv_segmentation",
    paper="Hatamizadeh et al. 2022, arXiv:2201.01266; Tang et al. 2022, arXiv:2111.14791",
    training_data="24 abdominal CT of BTCV with 13 organs drawn",
    notes="The transformer alone; the convolutions of Swin UNETR and its decoder are left out.",
)

_VISTA3D = BackboneSpec(
    name="vista3d",
    build=lambda: networks.vista3d(),
    input=InputSpec(
        1,
        "RAS",
        (-963.8247715525971, 1053.678477684517),
        (0.0, 1.0),
        minimum_shape=(32, 32, 32),
        spacing_mm=(1.5, 1.5, 1.5),
        shape=(128, 128, 128),
    ),
    stage_channels=(48, 96, 192, 384, 768),
    parameters=174_951_120,
    weights=_weights("model_vista3d.pt"),
    renaming=Renaming(prefixes=("image_encoder",), ignore=(r"up_layers(_auto)?\.", r"class_head\.", r"point_head\.")),
    licence="NVIDIA NCLS v1 (non-commercial)",
    commercial_use=False,
    must_accept=True,
    source=f"{_ZOO}vista3d",
    paper="He et al. 2024, arXiv:2406.05285",
    training_data="11,454 CT volumes of more than 20 collections with up to 127 structures drawn",
    notes=(
        "For research and evaluation only, and so is every network fine-tuned from it; whoever passes one on adds the "
        "licence's full text. Instance normalisation needs more than one voxel in the deepest map."
    ),
)

SPECS = (
    _whole_body(1.5, "model_wholebody_ct_segmentation.pt"),
    _whole_body(3.0, "model_lowres_wholebody_ct_segmentation.pt"),
    _NODULES,
    _BTCV,
    _VISTA3D,
)
