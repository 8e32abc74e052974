"""Volume to network input, the same in training and inference."""

from med_transfer.preprocessing.config import PreprocessingConfig
from med_transfer.preprocessing.pipeline import Grid, Preprocessing

__all__ = ["Grid", "Preprocessing", "PreprocessingConfig"]
