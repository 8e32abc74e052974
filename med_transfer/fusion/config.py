"""Config of the fusion."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Part = Literal["network", "handcrafted", "columns"]
Method = Literal["mean", "stacked"]
Penalty = Literal["auto"] | Annotated[float, Field(ge=1e-12, le=1e12)]


class FusionConfig(BaseModel):
    """The network's output with other knowledge of the same scan. ``fusion: null`` switches it off.

    Attributes:
        use: the network and at least one other part: ``handcrafted`` features (size and intensity within the mask, the
            region, or the whole scan), clinical ``columns`` of the cohort table.
        columns: which ones; a column of numbers is standardised, any other is taken as categories.
        method: ``mean`` of two logits, half and half: the network's, and those of one model of all other parts.
            ``stacked``: one model of everything, the network's out-of-fold logits among it; it learns how much each
            part counts, which takes many patients.
        penalty: scikit-learn's ``C``, small is strong; ``auto`` chooses it by cross-validation over patients.
        report: model whose figures are the main ones of the report; both are always shown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    use: tuple[Part, ...] = ("network", "handcrafted")
    columns: tuple[str, ...] = ()
    method: Method = "mean"
    penalty: Penalty = "auto"
    report: Literal["image", "fused"] = "image"

    @model_validator(mode="after")
    def _makes_sense(self) -> FusionConfig:
        reason = _contradiction(self)
        if reason:
            raise ValueError(reason)
        return self


def _contradiction(config: FusionConfig) -> str:
    use, columns = config.use, config.columns
    if len(set(use)) < len(use) or len(set(columns)) < len(columns):
        return "fusion names something twice"
    if "network" not in use or len(use) < 2:
        return f"fusion.use is {', '.join(use) or 'empty'}: it needs network and handcrafted, columns, or both"
    if "columns" in use and not columns:
        return "fusion.use has columns, and fusion.columns names none"
    if columns and "columns" not in use:
        return "fusion.columns names some, and fusion.use has no columns"
    return ""
