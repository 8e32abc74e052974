"""Find series on disk, check their geometry, and read them as volumes in patient coordinates."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
