"""Volume to network input, the same in training and inference."""

from med_transfer.preprocessing.config import PreprocessingConfig
from med_transfer.preprocessing.grid import Grid
from med_transfer.preprocessing.pipeline import Preprocessing, Scans
from med_transfer.preprocessing.resampling import resample
from med_transfer.preprocessing.transforms import ResampleToGrid, ResampleToGridd

__all__ = ["Grid", "Preprocessing", "PreprocessingConfig", "ResampleToGrid", "ResampleToGridd", "Scans", "resample"]
