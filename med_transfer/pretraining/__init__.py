"""Makes an encoder from unlabelled scans."""

from med_transfer.pretraining.config import CropConfig, DistillationConfig, LungSceneConfig, ViewConfig
from med_transfer.pretraining.distillation import distil
from med_transfer.pretraining.reading import read_source
from med_transfer.pretraining.source import SourceScan, SourceScans

__all__ = [
    "CropConfig",
    "DistillationConfig",
    "LungSceneConfig",
    "SourceScan",
    "SourceScans",
    "ViewConfig",
    "distil",
    "read_source",
]
