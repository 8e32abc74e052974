from .monitor import DriftMonitor

__all__ = [
    "DriftMonitor",
]
