"""The config section ``operating_point``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from med_transfer.metrics.records.decisions import RULES_CHOSEN_ON_VALIDATION

Rule = Literal["balanced_argmax", "argmax", "youden", "sensitivity", "cost", "thresholds"]
_KEYS: dict[str, tuple[str, ...]] = {
    "balanced_argmax": (),
    "argmax": (),
    "youden": (),
    "sensitivity": ("class", "at_least"),
    "cost": ("costs",),
    "thresholds": ("thresholds",),
}
_NEEDED = {"sensitivity": "at_least", "cost": "costs", "thresholds": "thresholds"}


class OperatingPointConfig(BaseModel):
    """The ``operating_point`` section. What is chosen is chosen on validation scans, never on test scans.

    Attributes:
        rule: ``balanced_argmax``, the class whose probability is the greatest multiple of what its frequency alone says
            (findings above that): what the network looks for, whatever is rare; ``argmax``, the most probable class
            (findings at 0.5), which is seldom a rare one; ``youden``, for each class against the rest the threshold of
            the greatest sensitivity + specificity - 1; ``sensitivity``, the highest threshold at which a class is found
            often enough; ``cost``, the class with the lowest expected cost; ``thresholds``, as stated.
        for_class: ``class`` in a file: whose sensitivity; None, with several findings a scan only, every finding's.
        at_least: target sensitivity on validation scans, above 0 and at most 1.
        costs: true class to called class to cost; a right call costs 0 unless stated. One class a scan only.
        thresholds: class or finding to probability; see :class:`med_transfer.model.operating_point.OperatingPoint`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    rule: Rule = "balanced_argmax"
    for_class: str | None = Field(default=None, alias="class")
    at_least: Annotated[float, Field(gt=0, le=1)] | None = None
    costs: dict[str, dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]] = Field(default_factory=dict)
    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _keys_belong_to_the_rule(self) -> OperatingPointConfig:
        given = {
            "class": self.for_class is not None,
            "at_least": self.at_least is not None,
            "costs": bool(self.costs),
            "thresholds": bool(self.thresholds),
        }
        foreign = [key for key, there in given.items() if there and key not in _KEYS[self.rule]]
        if foreign:
            takes = ", ".join(_KEYS[self.rule]) or "no other key"
            raise ValueError(f"{foreign[0]} with rule {self.rule}, which takes {takes}")
        needed = _NEEDED.get(self.rule)
        if needed and not given[needed]:
            raise ValueError(f"rule {self.rule} without {needed}")
        return self

    @property
    def is_chosen(self) -> bool:
        """Whether the thresholds come from validation scans."""
        return self.rule in RULES_CHOSEN_ON_VALIDATION
