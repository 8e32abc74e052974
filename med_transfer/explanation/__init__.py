"""Where a network looked: heat maps of a class, in the scan's own coordinates, and how far they can be trusted."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
