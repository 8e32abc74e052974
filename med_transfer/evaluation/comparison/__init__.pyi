from .compare import Comparison, compare_runs

__all__ = [
    "Comparison",
    "compare_runs",
]
