from .channels import Scans
from .config import InputConfig, PreprocessingConfig
from .monai_transforms import ResampleToGrid, ResampleToGridd
from .pipeline import Preprocessing
from .resampling.resample import resample

__all__ = [
    "InputConfig",
    "Preprocessing",
    "PreprocessingConfig",
    "ResampleToGrid",
    "ResampleToGridd",
    "Scans",
    "resample",
]
