from .config import SearchSpace, TuneConfig, TuningConfig
from .record import Tuning, advantage
from .run import tune

__all__ = [
    "SearchSpace",
    "TuneConfig",
    "Tuning",
    "TuningConfig",
    "advantage",
    "tune",
]
