"""The network's output, handcrafted features and clinical columns as one small linear model, on by choice."""

from med_transfer.fusion.config import FusionConfig
from med_transfer.fusion.model import Fused, Fusion, FusionScans

__all__ = ["Fused", "Fusion", "FusionConfig", "FusionScans"]
