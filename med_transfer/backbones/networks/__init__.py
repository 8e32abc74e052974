"""Encoders, each with the forward pass that its published weights were trained with.

The catalogue refers to them as ``networks.medicalnet(18)``; torch is imported when the first one is built.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
