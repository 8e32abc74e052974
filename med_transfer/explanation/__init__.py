"""Where a network looked: heat maps of a class, in the scan's own coordinates, and how far they can be trusted."""

from med_transfer.explanation.attention import Attention, looks_by_attention
from med_transfer.explanation.explained import Explanation, explain
from med_transfer.explanation.faithfulness import MapCheckSettings
from med_transfer.explanation.gradcam import GradCAM
from med_transfer.explanation.heat import HeatMap, Method
from med_transfer.explanation.occlusion import Occlusion

__all__ = [
    "Attention",
    "Explanation",
    "GradCAM",
    "HeatMap",
    "MapCheckSettings",
    "Method",
    "Occlusion",
    "explain",
    "looks_by_attention",
]
