from .previewing import Preview, preview
from .seen import SeenScan

__all__ = [
    "Preview",
    "SeenScan",
    "preview",
]
