"""A bundle at work, on one scan or a folder of them."""

from med_transfer.inference.folder import (
    BatchSettings,
    FolderOutcome,
    ScanToPredict,
    ScanWithRegion,
    scans_to_predict,
)
from med_transfer.inference.predictor import Predictor, load_bundle

__all__ = [
    "BatchSettings",
    "FolderOutcome",
    "Predictor",
    "ScanToPredict",
    "ScanWithRegion",
    "load_bundle",
    "scans_to_predict",
]
