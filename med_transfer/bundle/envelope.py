"""Input envelope: limits on the facts of a scan, learned from the development scans, to detect unlike scans.

A scan is outside if any of its facts is. Ten facts with a false alarm rate of 1 in 20 each would raise an alarm for one
scan in two or three, so the limits are set jointly. The distance of a fact is how far it lies beyond the central 95 %
of the development scans, in units of their width; the distance of a scan is the largest of its facts'. The margin is
chosen so that at most ``FALSE_ALARMS`` of scans exceed it, given limits learned from other patients (split conformal
prediction; Vovk et al. 2005). The rate therefore holds for all facts together, whatever their correlation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from med_transfer.cohorts.input_facts import INPUT_LENGTHS, INPUT_TEXTS, INPUT_VALUES
from med_transfer.errors import InputRejected
from med_transfer.errors.sentence import Sentence

FALSE_ALARMS = 0.02  # share of scans like the development scans, over all facts jointly
NOVELTY = "novelty"  # code of the other reason to abstain
_NUMBERS = (*INPUT_LENGTHS, *INPUT_VALUES, "noise")
_CENTRAL = (0.025, 0.975)
_MIN_WIDTH = 1.5  # ratio of largest to smallest length; a fact that never varied may then differ by a tenth
_MIN_WIDTH_OF_VALUES = 0.1  # of the range between a scan's 1st and 99th percentiles
_MIN_MARGIN = 0.25  # of the width
_FOLDS = 10

Facts = Mapping[str, str | float]
Limits = tuple[float, float]


class InputEnvelope(BaseModel):
    """Range of spacings along column, row, slice in mm, and limits on other facts, of the development scans.

    Attributes:
        n_scans: number of development scans.
        further: spacings of the table columns after ``scan``, where there are several.
        numbers: limits of each numeric fact of the first column's scan, see :mod:`med_transfer.cohorts.input_facts`.
        texts: values of each text fact found in the development scans.
        false_alarms: upper bound on the share of similar scans outside any limit; None: the bundle has no limits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spacing_mm_low: tuple[float, float, float]
    spacing_mm_high: tuple[float, float, float]
    n_scans: int
    further: tuple[InputEnvelope, ...] = ()
    numbers: dict[str, Limits] = Field(default_factory=dict)
    texts: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    false_alarms: float | None = None

    def outside(self, facts: Facts) -> dict[str, Sentence]:
        """Return code and explanation of each fact that lies outside its limits; empty if none does."""
        found = {}
        for name, (low, high) in self.numbers.items():
            if name in facts and not low <= float(facts[name]) <= high:
                values = {"fact": name, "value": _short(facts[name]), "low": _short(low), "high": _short(high)}
                found[f"outside_{name}"] = Sentence(
                    "{fact} {value} lies outside of {low} to {high}, where the development scans are", **values
                )
        for name, seen in self.texts.items():
            if name in facts and not _is_among(str(facts[name]), seen, part=name == "body_part"):
                values = {"fact": name, "value": facts[name], "seen": ", ".join(seen)}
                found[f"outside_{name}"] = Sentence("{fact} {value}: the development scans are {seen}", **values)
        return found

    def require_modality(self, facts: Facts, where: object) -> None:
        """Raise InputRejected for a modality that no development scan had."""
        if "outside_modality" in self.outside(facts):
            raise InputRejected(
                Sentence("modality {modality}", modality=facts["modality"]),
                where=where,
                expected=Sentence("{wanted}, as the development scans", wanted=", ".join(self.texts["modality"])),
                action="Leave the scan out",
            )


def fit_limits(facts: Sequence[Facts], patients: Sequence[str]) -> dict[str, object]:
    """Return ``numbers``, ``texts`` and ``false_alarms`` of an :class:`InputEnvelope`; empty if a number is missing.

    A text is kept only if every scan states it and each of its values occurs in at least two patients; otherwise the
    next patient may well have a new value.

    Args:
        facts: facts of each development scan.
        patients: patient of each scan.
    """
    names = [name for name in _NUMBERS if all(name in scan for scan in facts)]
    if len(names) < len(_NUMBERS):
        return {}
    values = np.array([[float(scan[name]) for name in names] for scan in facts])
    scale = _Scale(names, values)
    scaled, groups = scale(values), np.unique(patients, return_inverse=True)[1] % _FOLDS
    scores = np.zeros(len(facts))
    for fold in np.unique(groups):
        rest = scaled[groups != fold] if (groups != fold).any() else scaled
        scores[groups == fold] = _excess(scaled[groups == fold], *_central(rest, scale.least_width)).max(axis=1)
    needed = math.ceil((1 - FALSE_ALARMS) * (len(facts) + 1))
    margin = max(float(np.sort(scores)[min(needed, len(facts)) - 1]), _MIN_MARGIN)
    low, high, width = _central(scaled, scale.least_width)
    limits = scale.back(np.stack([low - margin * width, high + margin * width])).T.tolist()
    return {
        "numbers": dict(zip(names, map(tuple, limits), strict=True)),
        "texts": _texts(facts, patients),
        "false_alarms": max(FALSE_ALARMS, 1 / (len(facts) + 1)),
    }


def _is_among(text: str, seen: Sequence[str], *, part: bool) -> bool:
    """Membership; with ``part`` (of the body) also as a substring: CHEST matches CHESTABDPELVIS, but CT not OCT."""
    return any(one in text for one in seen) if part else text in seen


def _texts(facts: Sequence[Facts], patients: Sequence[str]) -> dict[str, tuple[str, ...]]:
    kept = {}
    for name in INPUT_TEXTS:
        having: dict[str, set[str]] = {}
        for scan, patient in zip(facts, patients, strict=True):
            having.setdefault(str(scan.get(name, "")), set()).add(patient)
        if "" not in having and min(map(len, having.values())) > 1:
            kept[name] = tuple(sorted(having))
    return kept


class _Scale:
    """Log scale for lengths and noise, linear scale for values, and the minimum width of limits on that scale."""

    def __init__(self, names: Sequence[str], values: NDArray[np.float64]) -> None:
        self.lengths = np.array([name in INPUT_LENGTHS for name in names], bool)
        self.noise = np.array([name == "noise" for name in names], bool)
        span = values[:, names.index("value_p99")] - values[:, names.index("value_p01")]
        of_values = max(_MIN_WIDTH_OF_VALUES * float(np.median(span)), 1e-6)
        self.least_width = np.where(self.lengths | self.noise, math.log(_MIN_WIDTH), of_values)

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        logarithms = np.log(np.maximum(np.where(self.noise, values + 1, values), 1e-6))
        return np.where(self.lengths | self.noise, logarithms, values)

    def back(self, scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        powers = np.exp(np.where(self.lengths | self.noise, scaled, 0.0)) - self.noise
        return np.where(self.lengths | self.noise, powers, scaled)


def _central(scaled: NDArray[np.float64], least_width: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Low and high limit of the central share, and their distance, at least ``least_width``."""
    low, high = np.quantile(scaled, _CENTRAL, axis=0)
    return low, high, np.maximum(high - low, least_width)


def _excess(
    scaled: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], width: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.maximum(0.0, np.maximum(low - scaled, scaled - high)) / width


def _short(value: object) -> str:
    return f"{value:.3g}"
