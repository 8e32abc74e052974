"""Probabilities that mean what they say, and sets of classes that hold the truth as often as was asked."""

from med_transfer.model.calibration.calibrate import Calibrated, calibrate
from med_transfer.model.calibration.calibrators import Calibrator, TemperatureScaling, Uncalibrated
from med_transfer.model.calibration.config import CalibrationConfig
from med_transfer.model.calibration.conformal import PredictionSets, fit_prediction_sets
from med_transfer.model.calibration.prior import log_prior_ratio, shifted

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
