"""Frozen features mapped before the head reads them: by an autoencoder's bottleneck, or recoloured (CORAL)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
