from .config import FusionConfig
from .model import Fused, Fusion, FusionScans

__all__ = [
    "Fused",
    "Fusion",
    "FusionConfig",
    "FusionScans",
]
