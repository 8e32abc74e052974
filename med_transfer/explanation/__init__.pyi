from .attention import Attention, looks_by_attention
from .explained import Explanation, explain
from .faithfulness import MapCheckSettings
from .gradcam import GradCAM
from .heat import HeatMap, Method
from .occlusion import Occlusion

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
