"""Volume to network input, the same in training and inference."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from med_transfer.preprocessing.channels import Scans
from med_transfer.preprocessing.config import InputConfig, PreprocessingConfig
from med_transfer.preprocessing.pipeline import Preprocessing
from med_transfer.preprocessing.resampling.grid import Grid
from med_transfer.preprocessing.resampling.resample import resample

if TYPE_CHECKING:
    from med_transfer.preprocessing.monai_transforms import ResampleToGrid, ResampleToGridd

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


def __getattr__(name: str) -> Any:
    """MONAI loads for its own transforms only: a process that reads scans starts in a quarter of the time."""
    if name in ("ResampleToGrid", "ResampleToGridd"):
        return getattr(importlib.import_module("med_transfer.preprocessing.monai_transforms"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
