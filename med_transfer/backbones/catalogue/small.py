"""The default backbone: a small network shipped with this package, so that transfer works offline and without a GPU."""

from __future__ import annotations

from pathlib import Path

from med_transfer.backbones import networks
from med_transfer.backbones.spec import BackboneSpec, InputSpec, WeightsSource

_FILE = Path(__file__).parent.parent / "shipped" / "med-transfer-small.safetensors"
_SCANS = "https://www.cancerimagingarchive.net/collection/soft-tissue-sarcoma/"

SPECS = (
    BackboneSpec(
        name="med-transfer-small",
        build=lambda: networks.slim_resnet(),
        input=InputSpec(1, "SPL", (-1000.0, 1000.0), (-1.0, 1.0), minimum_shape=(16, 16, 16)),
        stage_channels=(32, 64, 128, 256),
        parameters=8_287_776,
        weights=WeightsSource(file=_FILE.name, url=_SCANS, shipped=_FILE),
        licence="Apache-2.0",
        commercial_use=True,
        source=_SCANS,
        paper="He et al. 2016, arXiv:1512.03385 (network); Vallieres et al. 2015, Phys Med Biol 60:5471 (scans)",
        training_data="nodules painted into crops of 51 body CT (TCIA Soft-tissue-Sarcoma, CC BY 3.0)",
        pooled_stages=(-2, -1),
        sha256="5b1d2760d4a13bb5e4d1b28da4c22d13be3b6ee633c2d5abdcc8caa72f55415c",
        notes="The default: `resnet18-w32` that learned to say what was painted into crops 24 to 70 mm wide. Made for "
        "nodules in the lung, at input shapes of about 16 x 32 x 32. Card: docs/backbones/med-transfer-small.md.",
    ),
)
