"""Transfer strategies: which parts of a network learn, from which weights, in which epochs, and at which rates.

The config section ``transfer.strategy`` is a union of them, discriminated by ``name``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field

from med_transfer.finetuning.strategies.adapters import Adapters
from med_transfer.finetuning.strategies.by_stage import (
    AttentionProbe,
    Auto,
    Full,
    GradualUnfreezing,
    LayerwiseLRDecay,
    LinearProbe,
    ProbeThenFinetune,
    Scratch,
    Surgical,
)
from med_transfer.finetuning.strategies.lora import LoRA
from med_transfer.finetuning.strategies.strategy import Strategy

__all__ = ["STRATEGIES", "Adapters", "AnyStrategy", "Scratch", "Strategy"]

_Union = (
    Auto
    | Scratch
    | LinearProbe
    | AttentionProbe
    | Full
    | LayerwiseLRDecay
    | ProbeThenFinetune
    | GradualUnfreezing
    | Surgical
    | LoRA
    | Adapters
)


def _by_name(value: Any) -> Any:
    """A string stands for the strategy of that name; settings without a name are those of ``auto``."""
    if isinstance(value, str):
        return {"name": value}
    return {"name": "auto"} | dict(value) if isinstance(value, Mapping) else value


AnyStrategy = Annotated[_Union, Field(discriminator="name"), BeforeValidator(_by_name)]
STRATEGIES: dict[str, type[Strategy]] = {kind.model_fields["name"].default: kind for kind in get_args(_Union)}
