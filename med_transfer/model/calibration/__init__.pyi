from .calibrate import Calibrated, calibrate
from .calibrators import Calibrator, TemperatureScaling, Uncalibrated
from .config import CalibrationConfig
from .conformal import PredictionSets, fit_prediction_sets
from .prior import log_prior_ratio, shifted

__all__ = [
    "Calibrated",
    "CalibrationConfig",
    "Calibrator",
    "PredictionSets",
    "TemperatureScaling",
    "Uncalibrated",
    "calibrate",
    "fit_prediction_sets",
    "log_prior_ratio",
    "shifted",
]
