"""Volume to network input, the same in training and inference."""

from med_transfer.preprocessing.channels import Scans
from med_transfer.preprocessing.config import InputConfig, PreprocessingConfig
from med_transfer.preprocessing.monai_transforms import ResampleToGrid, ResampleToGridd
from med_transfer.preprocessing.pipeline import Preprocessing
from med_transfer.preprocessing.resampling.grid import Grid
from med_transfer.preprocessing.resampling.resample import resample

__all__ = [
    "Grid",
    "InputConfig",
    "Preprocessing",
    "PreprocessingConfig",
    "ResampleToGrid",
    "ResampleToGridd",
    "Scans",
    "resample",
]
