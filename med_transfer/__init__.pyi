from .api import (
    compare,
    datasets,
    evaluate,
    explain,
    finetune,
    list_backbones,
    plan,
    pretrain,
    preview,
    select_backbone,
)
from .api.estimator import TransferClassifier
from .backbones import load_backbone
from .cohorts import Cohort
from .finetuning import FinetuneConfig, Run
from .inference import Predictor, load_bundle
from .scans import Series, Volume, find_series, read_scan
from .scans.inspection.page import view_of

__version__: str

__all__ = [
    "Cohort",
    "FinetuneConfig",
    "Predictor",
    "Run",
    "Series",
    "TransferClassifier",
    "Volume",
    "compare",
    "datasets",
    "evaluate",
    "explain",
    "find_series",
    "finetune",
    "list_backbones",
    "load_backbone",
    "load_bundle",
    "plan",
    "pretrain",
    "preview",
    "read_scan",
    "select_backbone",
    "view_of",
]
