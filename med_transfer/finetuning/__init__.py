"""Training on a labelled cohort: augmentation, optimisation, early stopping, ensembling, and the whole run."""

from med_transfer.finetuning.config import AugmentationConfig, FinetuneConfig, TrainingConfig
from med_transfer.finetuning.run import Run, finetune

__all__ = ["AugmentationConfig", "FinetuneConfig", "Run", "TrainingConfig", "finetune"]
