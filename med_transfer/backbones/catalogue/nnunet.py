"""nnU-Net v2 and TotalSegmentator: the model's folder describes the architecture and the expected input."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from med_transfer.backbones import networks
from med_transfer.backbones.nnunet.described import from_weights, planned
from med_transfer.backbones.nnunet.plan import NetworkPlan, UNetArchitecture
from med_transfer.backbones.nnunet.plans import Z_SCORE_RANGE, Z_SCORE_WINDOW_HU
from med_transfer.backbones.spec import BackboneSpec, InputSpec, WeightsSource
from med_transfer.backbones.weights.renaming import Renaming

_USUAL = NetworkPlan(  # nnU-Net's plan for a patch of 128 voxels per side; shown until a model's folder is read
    described_by="nnU-Net's usual plan",
    architecture=UNetArchitecture(
        kind="plain",
        widths=(32, 64, 128, 256, 320, 320),
        kernels=((3, 3, 3),) * 6,
        strides=((1, 1, 1), *((2, 2, 2),) * 5),
        repeats=(2,) * 6,
    ),
    orientation="SPL",
    spacing_mm=(1.5, 1.5, 1.5),
    shape=(128, 128, 128),
    window_hu=Z_SCORE_WINDOW_HU,
    output_range=Z_SCORE_RANGE,
)

_RENAMING = Renaming(
    replace=((r"^stages\.", "context."),),  # every encoder here has a method named `stages`
    ignore=(r".*\.all_modules\.",),  # an alias of the same tensors; decoder.encoder.* is another
)
_ARCHITECTURE = _USUAL.architecture


_NNUNET = BackboneSpec(
    name="nnunet-v2",
    build=lambda: networks.NNUNetEncoder(_ARCHITECTURE),
    input=InputSpec(1, _USUAL.orientation, _USUAL.window_hu, _USUAL.output_range, minimum_shape=(64, 64, 64)),
    stage_channels=_ARCHITECTURE.widths[1:],
    parameters=14_025_120,
    weights=WeightsSource(file="nnUNetTrainer__nnUNetPlans__3d_fullres", url="your own training, or a model's author"),
    licence="of whoever trained the model",
    commercial_use=False,
    redistribution=False,
    renaming=_RENAMING,
    source="https://github.com/MIC-DKFZ/nnUNet",
    paper="Isensee et al. 2021, nnU-Net, doi:10.1038/s41592-020-01008-z",
    training_data="what the model's own data set holds",
    notes="Architecture, patch, spacing, axis order and intensities are read from plans.json: PlainConvUNet and "
    "ResidualEncoderUNet in 3D with one CT channel. Where a plan says ZScoreNormalization (MR), the z-score of a scan "
    "is approximated: -1000 to 1000 HU become -1 to 3. A plan does not tell how the training files were oriented: "
    "plain axial CT (SPL) is taken unless nnU-Net's reorienting reader was used; input.orientation changes it. Of "
    "several folds fold_all is taken, or else the first. Who trained the model decides on its licence.",
)

_TOTALSEGMENTATOR = {  # name: folder of the published weights, what it was trained on
    "organs": ("Dataset291_TotalSegmentator_part1_organs_1559subj", "1,559 CT scans at 1.5 mm, 24 organs"),
    "vertebrae": ("Dataset292_TotalSegmentator_part2_vertebrae_1532subj", "1,532 CT scans at 1.5 mm, vertebrae"),
    "cardiac": ("Dataset293_TotalSegmentator_part3_cardiac_1559subj", "1,559 CT scans at 1.5 mm, heart and vessels"),
    "muscles": ("Dataset294_TotalSegmentator_part4_muscles_1559subj", "1,559 CT scans at 1.5 mm, muscles and bones"),
    "ribs": ("Dataset295_TotalSegmentator_part5_ribs_1559subj", "1,559 CT scans at 1.5 mm, ribs"),
    "3mm": ("Dataset297_TotalSegmentator_total_3mm_1559subj", "1,559 CT scans at 3 mm, all structures"),
    "6mm": ("Dataset298_TotalSegmentator_total_6mm_1559subj", "1,559 CT scans at 6 mm, all structures"),
}


def _totalsegmentator(part: str) -> BackboneSpec:
    folder, training_data = _TOTALSEGMENTATOR[part]
    return replace(
        _NNUNET,
        name=f"totalsegmentator-{part}",
        weights=WeightsSource(
            file=folder, url="https://github.com/wasserth/TotalSegmentator (totalseg_download_weights)"
        ),
        training_data=training_data,
        notes="TotalSegmentator turns every scan to RAS before its networks see it. Architecture, patch, spacing and "
        "intensities are read from the folder's plans.json. The licence is that of the open tasks, of which this is "
        "one; other tasks of TotalSegmentator need a licence of their own (some forbid commercial use): read it, then "
        "give their folder to nnunet-v2.",
        licence="Apache-2.0",
        commercial_use=True,
        redistribution=True,
        source="https://github.com/wasserth/TotalSegmentator",
        paper="Wasserthal et al. 2023, TotalSegmentator, doi:10.1148/ryai.230024",
    )


def _completed(entry: BackboneSpec, stored_axes: str) -> BackboneSpec:
    """The entry with the usual plan until a model's folder is read, whose arrays are oriented as ``stored_axes``."""
    return replace(planned(entry, _USUAL), from_weights=partial(from_weights, stored_axes=stored_axes))


SPECS = (
    _completed(_NNUNET, stored_axes="SPL"),
    *(_completed(_totalsegmentator(part), stored_axes="SAR") for part in _TOTALSEGMENTATOR),
)
