"""The search for a better configuration, inside the development folds; the test scans stay apart."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
