"""Strategy settings under the keys that they had before they moved to ``transfer.strategy``."""

from __future__ import annotations

import logging
from typing import Any

from med_transfer.config import MISSING, pop_value
from med_transfer.errors import ConfigError
from med_transfer.finetuning.strategies import STRATEGIES, Strategy

log = logging.getLogger(__name__)

_OLD_KEYS = {  # the strategy's setting that each key is now, and its default, which every old config.yaml spells out
    "training.learning_rate": ("learning_rate", None),
    "training.stage_decay": ("stage_decay", None),
    "training.freeze_stages": ("freeze_stages", 0),
    "transfer.gradual_unfreezing.epochs_per_stage": ("epochs_per_stage", 1),
    "transfer.surgical.stages": ("stages", []),
    "transfer.lora.rank": ("rank", 8),
    "transfer.lora.alpha": ("alpha", 8),
    "transfer.adapters.reduction": ("reduction", 4),
}
_OLD_BATCH_NORM = "training.freeze_norm_statistics"


def upgrade_strategy(values: dict[str, Any]) -> None:
    """Move old keys of a config in place, with a warning that names the new key.

    Settings of a strategy that is not the chosen one never had an effect and are dropped: with a warning, or silently
    where they are the default.

    Raises:
        ConfigError: two keys contradict each other about BatchNorm.
    """
    transfer = values.setdefault("transfer", {})
    strategy = transfer.setdefault("strategy", {}) if isinstance(transfer, dict) else None
    if not isinstance(strategy, dict):
        return  # the config's validation says what is wrong
    chosen = strategy.get("name", "auto")
    if not isinstance(chosen, str):
        return
    settings = STRATEGIES.get(chosen, Strategy).model_fields
    for old, (new, default) in _OLD_KEYS.items():
        value = pop_value(values, old)
        if value is MISSING or value == default:
            continue
        if new in settings and new not in strategy:
            log.warning("config key %s is now called transfer.strategy.%s", old, new)
            strategy[new] = value
        else:
            log.warning("config key %s is without effect with transfer.strategy %s", old, chosen)
    _upgrade_batch_norm(values, transfer)


def _upgrade_batch_norm(values: dict[str, Any], transfer: dict[str, Any]) -> None:
    """Replace ``training.freeze_norm_statistics``, whose False is now ``batch_norm: train``."""
    frozen, chosen = pop_value(values, _OLD_BATCH_NORM), transfer.get("batch_norm", "auto")
    if frozen in (MISSING, None):
        return
    if frozen == (chosen == "train") and chosen != "auto":
        raise ConfigError(f"{str(frozen).lower()} with transfer.batch_norm {chosen}", where=_OLD_BATCH_NORM)
    transfer["batch_norm"] = chosen if frozen else "train"
    log.warning("config key %s is now transfer.batch_norm: %s", _OLD_BATCH_NORM, transfer["batch_norm"])
