from .config import AugmentationConfig, FinetuneConfig, TrainingConfig
from .run import Run, finetune

__all__ = [
    "AugmentationConfig",
    "FinetuneConfig",
    "Run",
    "TrainingConfig",
    "finetune",
]
