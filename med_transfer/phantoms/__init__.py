"""Synthetic chest CT with known geometry, written as real DICOM or NIfTI: for the demo, the tests, the benchmarks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
