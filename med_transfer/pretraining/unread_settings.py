"""Settings of a pretraining that its method does not read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

from med_transfer.config import changed_keys
from med_transfer.pretraining.config import Method, PretrainingConfig


def unread_settings(config: PretrainingConfig) -> list[str]:
    """Sentences on settings that differ from the default and have no effect."""
    default, sentences = PretrainingConfig(steps=1), []
    for keys, why in _unread(config):
        if changed := changed_keys(config, default, keys):
            sentences.append(f"{', '.join(changed)} without effect: {why}")
    return sentences


def _unread(config: PretrainingConfig) -> Iterator[tuple[Sequence[str], str]]:
    """Keys that are not read, and the reason."""
    method, target, region = config.method, config.supervised.target, config.supervised.region
    yield [other for other in get_args(Method) if other != method], f"method is {method}"
    supervised = method == "supervised"
    if method == "painted_lesions" or (supervised and (target, region) == ("label", "whole")):
        yield ["crops.size_mm", "crops.large_size_mm", "crops.large", "crops.lung"], "whole scans are shown"
    else:
        yield ["crops.slab"], "crops are shown, and no whole scans"
        yield ["crops.lung"] if supervised else [], "crops are centred in the table's regions or masks"
    if method == "painted_lesions":
        yield ["views.gamma"], "lesions are painted in Hounsfield units, which no gamma changes"
    if supervised:
        of_other = {"label": ("inside", "decoder_channels"), "mask": ("region", "label_smoothing")}[target]
        yield [f"supervised.{name}" for name in of_other], f"supervised.target is {target}"
    if config.contrastive.loss == "vicreg":
        yield ["contrastive.temperature", "contrastive.embedding"], "contrastive.loss is vicreg"
    if config.probe.cohort is None:
        yield ["probe.region", "probe.spacing_mm", "probe.folds"], "there is no probe.cohort"
