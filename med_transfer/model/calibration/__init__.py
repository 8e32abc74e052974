"""Probabilities that mean what they say, and sets of classes that hold the truth as often as was asked."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
