"""Optional fusion of the network's output, handcrafted features and clinical columns in a small linear model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
