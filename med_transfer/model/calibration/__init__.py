"""Probability calibration, and prediction sets that contain the true class with a requested coverage."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
