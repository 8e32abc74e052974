"""Config of the evaluation's statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from med_transfer.errors import UsageError
from med_transfer.predictions.labels import Labels

BinomialMethod = Literal["wilson", "clopper-pearson", "jeffreys"]
Between = Annotated[float, Field(gt=0, lt=1)]


class EvaluationConfig(BaseModel):
    """How rates are stated.

    Attributes:
        interval: of sensitivity, specificity, PPV and NPV: ``wilson``, ``clopper-pearson`` or ``jeffreys``.
        prevalence: class to its prevalence in the intended population; PPV and NPV are also reported for it.
        interval_width: desired width of the interval in the sample-size section, in (0, 1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    interval: BinomialMethod = "wilson"
    prevalence: dict[str, Between] = Field(default_factory=dict)
    interval_width: Between = 0.1


def checked_prevalence(stated: dict[str, float], labels: Labels) -> dict[str, float]:
    """Return ``stated``. Raises UsageError for an unknown class, or if exclusive classes sum to more than 1."""
    unknown = sorted(set(stated) - set(labels.names))
    if unknown:
        raise UsageError(
            f"{', '.join(unknown)} is no class", where="prevalence", expected=f"one of {', '.join(labels.names)}"
        )
    if not labels.multilabel and (total := sum(stated.values())) > 1 + 1e-9:
        raise UsageError(
            f"shares that sum to {total:g}", where="prevalence", expected="at most 1, as a scan has one class"
        )
    return stated


def read_prevalence(words: Sequence[str]) -> dict[str, float]:
    """Parse words of the form ``CLASS=0.1``. Raises UsageError for an invalid word or a class named twice."""
    stated = [_prevalence_of(word) for word in words]
    names = [name for name, _ in stated]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{', '.join(twice)} twice", where="--prevalence", expected="each class once")
    return dict(stated)


def _prevalence_of(word: str) -> tuple[str, float]:
    name, _, number = word.rpartition("=")
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    if not name or not 0 < share < 1:
        raise UsageError(
            f"{word!r}", where="--prevalence", expected="CLASS=SHARE with a share between 0 and 1, as malignant=0.1"
        )
    return name.strip(), share
