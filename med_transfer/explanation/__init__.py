"""Heat maps of where a network looked for a class, in the scan's coordinates, and checks of their reliability."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
