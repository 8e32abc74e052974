"""Cohort table, splits by patient, locks that record which patients were seen, and scans prepared for training."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
