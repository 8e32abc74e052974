"""Makes an encoder from source scans: by labels or masks, by hiding and comparing, or from a teacher."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
