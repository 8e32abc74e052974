"""Synthetic chest CT with known geometry, written as DICOM or NIfTI, for the demonstration, tests and benchmarks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
