"""Transfer learning for CT and other volumetric scans, with honest per-class sensitivity. Research use only.

>>> import med_transfer as mt
>>> run = mt.finetune("cohort.csv", out="run")            # doctest: +SKIP
>>> mt.load_bundle(run.bundle).predict("scan.nii.gz")     # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from med_transfer.api import (
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
    from med_transfer.api.estimator import TransferClassifier
    from med_transfer.backbones import load_backbone
    from med_transfer.cohorts import Cohort
    from med_transfer.finetuning import FinetuneConfig, Run
    from med_transfer.inference import Predictor, load_bundle
    from med_transfer.scans import Series, Volume, find_series, read_scan
    from med_transfer.scans.inspection.page import view_of

_HOME = {
    "Cohort": "cohorts",
    "FinetuneConfig": "finetuning",
    "Predictor": "inference",
    "Run": "finetuning",
    "Series": "scans",
    "TransferClassifier": "api.estimator",
    "Volume": "scans",
    "compare": "api",
    "datasets": "api",
    "evaluate": "api",
    "explain": "api",
    "find_series": "scans",
    "finetune": "api",
    "list_backbones": "api",
    "load_backbone": "backbones",
    "load_bundle": "inference",
    "plan": "api",
    "pretrain": "api",
    "preview": "api",
    "read_scan": "scans",
    "select_backbone": "api",
    "view_of": "scans.inspection.page",
}

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


def __getattr__(name: str) -> object:
    """Public names load on first use, so that ``import med_transfer`` and the command line start at once."""
    if name not in _HOME:
        raise AttributeError(f"module 'med_transfer' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"med_transfer.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
