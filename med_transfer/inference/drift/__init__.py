"""Whether what a bundle is given, and what it answers, has moved."""

from med_transfer.inference.drift.monitor import DriftMonitor

__all__ = ["DriftMonitor"]
