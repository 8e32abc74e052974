"""Finds series on disk, gives a verdict on their geometry, and reads them as volumes in patient coordinates."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
