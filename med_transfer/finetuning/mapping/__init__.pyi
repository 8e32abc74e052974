from .autoencoder import Autoencoder, fit_autoencoder
from .coral import LinearMap, fit_coral

__all__ = [
    "Autoencoder",
    "LinearMap",
    "fit_autoencoder",
    "fit_coral",
]
