"""Fitted calibrations as stored in the bundle: plain numbers, applied by the same code in training and inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.special import expit, logsumexp, softmax

from med_transfer.errors.sentence import TextInParts

Logits = NDArray[np.floating]
Probabilities = NDArray[np.float64]
Share = Annotated[float, Field(ge=0, le=1)]

FEW_PATIENTS = 10  # per class; with fewer, a fit is mostly chance


class _Calibrator(BaseModel):
    """Base class of the calibrations.

    Attributes:
        n: number of validation scans it was fitted on.
        n_patients: number of their patients with each class (for findings also ``no NAME``); empty in older bundles.
        note: why this method was chosen, if it is not the one that was asked for; else empty.
        no_evidence: logits [class] at which the network favours no class; empty means 0, as balanced training gives.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    n: int = 0
    n_patients: dict[str, int] = Field(default_factory=dict)
    note: TextInParts = ""
    no_evidence: tuple[float, ...] = ()

    def probabilities(self, logits: Logits, *, multilabel: bool) -> Probabilities:
        """Return calibrated probabilities [scan, class], float64, for logits [scan, class] of one network."""
        scaled = self._scaled(logits.astype(np.float64))
        return expit(scaled) if multilabel else softmax(scaled, axis=1)

    def without_evidence(self, n_classes: int, *, multilabel: bool) -> tuple[float, ...]:
        """Return each class's probability where the network favours none, which reflects class frequency alone."""
        logits = np.array([self.no_evidence or [0.0] * n_classes])
        return tuple(self.probabilities(logits, multilabel=multilabel)[0].tolist())

    def _scaled(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrated logits."""
        return logits

    def fits(self, n_classes: int) -> bool:
        """Whether the calibration is for this number of classes."""
        return True

    def __str__(self) -> str:
        """Name of the method and its parameters, in words."""
        return self.translated(lambda template, /, **values: template.format(**values))

    def translated(self, t: Callable[..., str]) -> str:
        """Like ``str()``, translated by ``t``, which fills a template with its values."""
        return self._translated(t)

    def _translated(self, t: Callable[..., str]) -> str:
        raise NotImplementedError


class _Biased(_Calibrator):
    """Logits plus a bias per class.

    Attributes:
        bias: [class]; empty for no bias, as in older bundles.
    """

    bias: tuple[float, ...] = ()

    def _scaled(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        return logits + np.array(self.bias) if self.bias else logits

    def fits(self, n_classes: int) -> bool:
        """Whether there is a bias for each class, or none."""
        return len(self.bias) in (0, n_classes)


class Uncalibrated(_Biased):
    """Softmax (sigmoid for multi-label data) of the logits, corrected only for a known prior."""

    method: Literal["none"] = "none"

    def _translated(self, t: Callable[..., str]) -> str:
        return t("none")


class TemperatureScaling(_Biased):
    """Logits divided by one temperature, which is above 1 for an overconfident network, plus a bias per class.

    Source: Guo et al. 2017, ICML, PMLR 70:1321, section 4.2; with a bias Alexandari et al. 2020, ICML, PMLR 119:222.
    """

    method: Literal["temperature"] = "temperature"
    temperature: Annotated[float, Field(gt=0)]

    def _scaled(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        return super()._scaled(logits / self.temperature)

    def _translated(self, t: Callable[..., str]) -> str:
        return t("temperature {value:.2f}", value=self.temperature)


class VectorScaling(_Calibrator):
    """Each class's logit times a scale, plus a bias, both [class]; for findings this is Platt scaling of each.

    Source: Guo et al. 2017, ICML, PMLR 70:1321, section 4.2; Platt 1999, Advances in Large Margin Classifiers, p. 61.
    """

    method: Literal["vector"] = "vector"
    scale: tuple[Annotated[float, Field(ge=0)], ...]
    bias: tuple[float, ...]

    def _scaled(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        return logits * np.array(self.scale) + np.array(self.bias)

    def fits(self, n_classes: int) -> bool:
        """Whether there is a scale and a bias for each class."""
        return len(self.scale) == len(self.bias) == n_classes

    def _translated(self, t: Callable[..., str]) -> str:
        return t("vector scaling")


class RisingCurve(BaseModel):
    """Monotone curve: linear between points, constant beyond the first and the last.

    Attributes:
        log_odds: [point], strictly increasing uncalibrated log odds of the class against the rest.
        probability: [point], non-decreasing, in [0, 1].
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    log_odds: Annotated[tuple[float, ...], Field(min_length=1)]
    probability: tuple[Share, ...]

    @model_validator(mode="after")
    def _rises(self) -> RisingCurve:
        if len(self.log_odds) != len(self.probability):
            raise ValueError(f"{len(self.log_odds)} log odds and {len(self.probability)} probabilities")
        if any(a >= b for a, b in zip(self.log_odds, self.log_odds[1:], strict=False)):
            raise ValueError("log odds that do not rise")
        if any(a > b for a, b in zip(self.probability, self.probability[1:], strict=False)):
            raise ValueError("probabilities that fall")
        return self

    def at(self, log_odds: NDArray[np.float64]) -> Probabilities:
        """Return probabilities [scan] at log odds [scan]."""
        return np.interp(log_odds, self.log_odds, self.probability)


class IsotonicRegression(_Calibrator):
    """Isotonic regression of each class against the rest; for exclusive classes then normalised to sum to 1.

    Source: Zadrozny & Elkan 2002, KDD, p. 694.
    """

    method: Literal["isotonic"] = "isotonic"
    curves: tuple[RisingCurve, ...]

    def probabilities(self, logits: Logits, *, multilabel: bool) -> Probabilities:
        """Return calibrated probabilities [scan, class], read off each class's curve at its log odds."""
        odds = log_odds(logits, multilabel=multilabel)
        each = np.stack([curve.at(odds[:, c]) for c, curve in enumerate(self.curves)], axis=1)
        return each if multilabel else each / each.sum(axis=1, keepdims=True)

    def fits(self, n_classes: int) -> bool:
        """Whether there is a curve for each class."""
        return len(self.curves) == n_classes

    def _translated(self, t: Callable[..., str]) -> str:
        return t("isotonic regression of each class against the rest")


Calibrator = Annotated[
    Uncalibrated | TemperatureScaling | VectorScaling | IsotonicRegression, Field(discriminator="method")
]


def log_odds(logits: Logits, *, multilabel: bool) -> NDArray[np.float64]:
    """Return log odds of each class against the rest [scan, class], float64; unlike probabilities they do not saturate.

    Args:
        logits: [scan, class].
        multilabel: whether a scan may have several classes; the logits are then the log odds.
    """
    logits = logits.astype(np.float64)
    if multilabel:
        return logits
    own = np.eye(logits.shape[1], dtype=bool)
    return logits - logsumexp(np.where(own, -np.inf, logits[:, None, :]), axis=2)
