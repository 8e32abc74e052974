"""Transformations of frozen features before the head reads them: an autoencoder's bottleneck, or CORAL."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
