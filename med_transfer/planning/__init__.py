"""What a cohort looks like, and the config that suits it, each choice with its reason."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
