"""What every HTML page of the program shares: one layout, one style, one way to be translated."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
