from .folder import BatchSettings, FolderOutcome
from .listing import ScanToPredict, ScanWithRegion, scans_to_predict
from .predictor import Predictor, load_bundle

__all__ = [
    "BatchSettings",
    "FolderOutcome",
    "Predictor",
    "ScanToPredict",
    "ScanWithRegion",
    "load_bundle",
    "scans_to_predict",
]
