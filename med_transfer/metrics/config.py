"""What a user may choose of the evaluation's statistics."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from med_transfer.metrics.binomial import BinomialMethod

Between = Annotated[float, Field(gt=0, lt=1)]


class EvaluationConfig(BaseModel):
    """How rates are stated.

    Attributes:
        interval: of sensitivity, specificity, PPV and NPV: ``wilson``, ``clopper-pearson`` or ``jeffreys``.
        prevalence: class to its share in the patients that the model is meant for; PPV and NPV are given there too.
        interval_width: that the sample-size statement plans for, in (0, 1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    interval: BinomialMethod = "wilson"
    prevalence: dict[str, Between] = Field(default_factory=dict)
    interval_width: Between = 0.1
