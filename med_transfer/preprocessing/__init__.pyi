from .channels import Scans
from .config import InputConfig, PreprocessingConfig
from .monai_transforms import ResampleToGrid, ResampleToGridd
from .pipeline import Preprocessing
from .resampling.grid import Grid
from .resampling.resample import resample

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
