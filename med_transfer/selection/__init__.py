"""Which backbone, and which of its layers, suits a cohort: measured on frozen features, before any training."""

from med_transfer.selection.record import BackboneScore, Cost, DomainGap, LayerScore, Selection
from med_transfer.selection.selecting import select

__all__ = ["BackboneScore", "Cost", "DomainGap", "LayerScore", "Selection", "select"]
