"""Config of the calibration of probabilities."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

FittedMethod = Literal["none", "temperature", "vector", "isotonic"]
Method = Literal["none", "temperature", "vector", "isotonic", "auto"]


class CalibrationConfig(BaseModel):
    """From logits to probabilities, learned on validation scans.

    Attributes:
        method: ``none`` (softmax or sigmoid alone), ``temperature`` (one number), ``vector`` (a scale and a bias a
            class), ``isotonic`` (a rising curve a class), or ``auto``: the simplest within one standard error of the
            least cross-validated log loss. A method that has too few patients to learn from falls back to
            ``temperature``, and says so.
        set_coverage: target coverage: share of the scans of each class whose prediction set should contain the class,
            in [0.5, 1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = "temperature"
    set_coverage: Annotated[float, Field(ge=0.5, lt=1)] = 0.9
