"""Frozen features mapped before the head reads them: by an autoencoder's bottleneck, or recoloured (CORAL)."""

from med_transfer.finetuning.mapping.autoencoder import Autoencoder, fit_autoencoder
from med_transfer.finetuning.mapping.coral import LinearMap, fit_coral

__all__ = ["Autoencoder", "LinearMap", "fit_autoencoder", "fit_coral"]
