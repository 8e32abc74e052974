"""What the user has set, from which settings that are planned may follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from med_transfer.config import MISSING, value_at
from med_transfer.errors import ConfigError
from med_transfer.errors.validation import first_problem
from med_transfer.preprocessing.config import InputConfig


@dataclass(frozen=True)
class GivenSettings:
    """The user's settings.

    Attributes:
        values: the sections of a config, with the keys alone that the user has set.
        pretrains: whether a network may be pretrained on the cohort itself, which takes most of half an hour.
        searches: whether the plan is for a search, which keeps a test part of a small cohort too.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    pretrains: bool = True
    searches: bool = False

    def has(self, key: str) -> bool:
        """Whether the user has set this dotted key, or one in this section."""
        return value_at(self.values, key) not in (MISSING, {})

    def get(self, key: str, default: Any = None) -> Any:
        """The value that the user has set; the default without."""
        value = value_at(self.values, key)
        return default if value is MISSING else value

    @cached_property
    def input(self) -> InputConfig:
        """The section ``input``. Raises ConfigError for a value that it cannot have."""
        try:
            return InputConfig.model_validate(self.get("input") or {})
        except ValidationError as error:
            found, key = first_problem(error)
            raise ConfigError(found, where=f"input.{key}") from None

    @property
    def region(self) -> str:
        """``input.region``; empty if it is left to the plan."""
        return self.input.region if self.has("input.region") else ""

    @property
    def backbone(self) -> str:
        """``backbone.name``; empty if it is left to the plan."""
        return str(self.get("backbone.name") or "")

    @property
    def own_weights(self) -> bool:
        """Whether the user gives weights for the backbone."""
        return bool(self.get("backbone.weights"))

    @property
    def strategy(self) -> str:
        """``transfer.strategy.name``; empty if it is left to the plan."""
        return str(self.get("transfer.strategy.name") or "")


NOTHING = GivenSettings()
