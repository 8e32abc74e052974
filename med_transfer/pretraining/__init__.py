"""Makes an encoder from source scans: by labels or masks, by hiding and comparing, or from a teacher."""

from med_transfer.pretraining.config import (
    ContrastiveConfig,
    DistillationConfig,
    MaskedAutoencodingConfig,
    PaintedNodulesConfig,
    PretrainingConfig,
    ProbeConfig,
    StopConfig,
    SupervisedConfig,
)
from med_transfer.pretraining.run import Pretrained, pretrain
from med_transfer.pretraining.source.reading import prepare_source, read_source
from med_transfer.pretraining.source.scans import SourceScan, SourceScans
from med_transfer.pretraining.view_config import CropConfig, LungSceneConfig, ViewConfig

__all__ = [
    "ContrastiveConfig",
    "CropConfig",
    "DistillationConfig",
    "LungSceneConfig",
    "MaskedAutoencodingConfig",
    "PaintedNodulesConfig",
    "Pretrained",
    "PretrainingConfig",
    "ProbeConfig",
    "SourceScan",
    "SourceScans",
    "StopConfig",
    "SupervisedConfig",
    "ViewConfig",
    "prepare_source",
    "pretrain",
    "read_source",
]
