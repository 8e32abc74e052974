"""Every page by its name under docs/reference."""

from __future__ import annotations

from pydantic import BaseModel

from med_transfer.cli.reference.commands import commands_page
from med_transfer.cli.reference.errors import errors_page
from med_transfer.cli.reference.glossary import glossary_page
from med_transfer.cli.reference.settings import settings_page
from med_transfer.finetuning import FinetuneConfig
from med_transfer.hospital.config import NodeConfig
from med_transfer.phantoms import PhantomConfig
from med_transfer.pretraining import PretrainingConfig
from med_transfer.scans.search.series_rules import SeriesRules
from med_transfer.tuning import TuneConfig

_FILES: dict[str, tuple[type[BaseModel], str, str]] = {
    "finetune": (
        FinetuneConfig,
        "finetune",
        "`finetune`, `preview` and `select` read them, from a YAML file or `--set`.",
    ),
    "pretrain": (PretrainingConfig, "pretrain", "`pretrain` reads them, from a YAML file or `--set`."),
    "tune": (
        TuneConfig,
        "tune",
        "`tune` reads them besides all of [finetune](finetune.md), which it changes from trial to trial.",
    ),
    "phantom": (PhantomConfig, "phantom", "`phantom` reads them, from a YAML file or `--set`."),
    "series": (
        SeriesRules,
        "index --series-rules",
        "`index --series-rules FILE` and `study.series` of a node read them.",
    ),
    "node": (NodeConfig, "serve", "`serve BUNDLE -c node.yaml` reads them; there is no `--set`."),
}


def pages() -> dict[str, str]:
    """The text of each page; the same code gives the same text."""
    settings = {
        f"settings/{name}.md": settings_page(title, sentence, model, leave_out=_known(model))
        for name, (model, title, sentence) in _FILES.items()
    }
    return {"commands.md": commands_page(), "errors.md": errors_page(), "glossary.md": glossary_page(), **settings}


def _known(model: type[BaseModel]) -> set[str]:
    """Keys that another page tells."""
    return set(FinetuneConfig.model_fields) if model is TuneConfig else set()
