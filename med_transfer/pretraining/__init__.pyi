from .config import (
    ContrastiveConfig,
    DistillationConfig,
    MaskedAutoencodingConfig,
    PaintedNodulesConfig,
    PretrainingConfig,
    ProbeConfig,
    StopConfig,
    SupervisedConfig,
)
from .run import Pretrained, pretrain
from .source.reading import prepare_source, read_source
from .source.scans import SourceScan, SourceScans
from .view_config import CropConfig, LungSceneConfig, ViewConfig

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
