from .record import BackboneScore, Cost, DomainGap, LayerScore, Selection
from .selecting import select

__all__ = [
    "BackboneScore",
    "Cost",
    "DomainGap",
    "LayerScore",
    "Selection",
    "select",
]
