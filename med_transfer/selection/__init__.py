"""Selection of the backbone and layer that suit a cohort, by measures on frozen features, before any training."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
