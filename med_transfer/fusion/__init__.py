"""The network's output, handcrafted features and clinical columns as one small linear model, on by choice."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
