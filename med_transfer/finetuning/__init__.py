"""Training on a labelled cohort: augmentation, optimisation, early stopping, ensembling, and the whole run."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
