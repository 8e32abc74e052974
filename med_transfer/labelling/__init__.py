"""Label budget and active learning: how many more labels are needed, and which scans to label next."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
