"""Runs side by side: differences with paired intervals, tests as a second opinion, and a page to read."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
