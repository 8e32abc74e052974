"""A bundle at work, on one scan or a folder of them."""

from med_transfer.inference.folder import FolderOutcome
from med_transfer.inference.predictor import Predictor, load_bundle

__all__ = ["FolderOutcome", "Predictor", "load_bundle"]
