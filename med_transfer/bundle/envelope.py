"""What the development scans looked like, and whether another scan looks like them.

Each fact of a scan has limits, and a scan is outside where any fact is. Ten facts that each raise one false alarm in
twenty would raise one in two or three scans, so the limits are set together: a fact's distance is how far it lies
beyond the central 95 % of the development scans, in units of their width; a scan's is the largest of its facts'. The
margin is the one that all but ``FALSE_ALARMS`` of the scans keep to whose limits were learned from other patients
(split conformal prediction; Vovk et al. 2005), so the rate holds for all facts together, however they hang together.
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

FALSE_ALARMS = 0.02  # of scans like the development scans, all facts together
NOVELTY = "novelty"  # the code of the other reason to abstain
_NUMBERS = (*INPUT_LENGTHS, *INPUT_VALUES, "noise")
_CENTRAL = (0.025, 0.975)
_LEAST_WIDTH = 1.5  # largest by smallest length; a fact that never varied may differ by a tenth
_LEAST_WIDTH_OF_VALUES = 0.1  # of what lies between the 1st and 99th percentile of a scan
_LEAST_MARGIN = 0.25  # of the width
_FOLDS = 10

Facts = Mapping[str, str | float]
Limits = tuple[float, float]


class InputEnvelope(BaseModel):
    """What training scans looked like: smallest and largest spacing along column, row, slice in mm, and limits.

    Attributes:
        n_scans: development scans.
        further: spacings of the columns after ``scan``, where there are several.
        numbers: fact of the first column's scan to its limits, see :mod:`med_transfer.cohorts.input_facts`.
        texts: fact to the values that development scans had.
        false_alarms: share of scans like these that lie outside any limit, at most; None: the bundle has no limits.
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
        """For each fact that lies outside its code and what there is to say; empty where none does."""
        found = {}
        for name, (low, high) in self.numbers.items():
            if name in facts and not low <= float(facts[name]) <= high:
                said = {"fact": name, "value": _short(facts[name]), "low": _short(low), "high": _short(high)}
                found[f"outside_{name}"] = Sentence(
                    "{fact} {value} lies outside of {low} to {high}, where the development scans are", **said
                )
        for name, seen in self.texts.items():
            if name in facts and not _is_among(str(facts[name]), seen, part=name == "body_part"):
                said = {"fact": name, "value": facts[name], "seen": ", ".join(seen)}
                found[f"outside_{name}"] = Sentence("{fact} {value}: the development scans are {seen}", **said)
        return found

    def require_modality(self, facts: Facts, where: object) -> None:
        """Raises InputRejected for a modality that no development scan had."""
        if "outside_modality" in self.outside(facts):
            raise InputRejected(
                Sentence("modality {modality}", modality=facts["modality"]),
                where=where,
                expected=Sentence("{wanted}, as the development scans", wanted=", ".join(self.texts["modality"])),
                action="Leave the scan out",
            )


def fit_limits(facts: Sequence[Facts], patients: Sequence[str]) -> dict[str, object]:
    """``numbers``, ``texts`` and ``false_alarms`` of an envelope, of development scans and their patients; empty where
    their numbers are not known.

    A text is kept only where every scan states it and none has a value that no other patient has: else the next
    patient's may be a new one, too.
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
    margin = max(float(np.sort(scores)[min(needed, len(facts)) - 1]), _LEAST_MARGIN)
    low, high, width = _central(scaled, scale.least_width)
    limits = scale.back(np.stack([low - margin * width, high + margin * width])).T.tolist()
    return {
        "numbers": dict(zip(names, map(tuple, limits), strict=True)),
        "texts": _texts(facts, patients),
        "false_alarms": max(FALSE_ALARMS, 1 / (len(facts) + 1)),
    }


def _is_among(text: str, seen: Sequence[str], *, part: bool) -> bool:
    """``part``: of the body, as CHEST in CHESTABDPELVIS; but the modality OCT is no CT."""
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
    """Lengths and noise by their logarithm, values as they are, and how wide limits are at least."""

    def __init__(self, names: Sequence[str], values: NDArray[np.float64]) -> None:
        self.lengths = np.array([name in INPUT_LENGTHS for name in names], bool)
        self.noise = np.array([name == "noise" for name in names], bool)
        span = values[:, names.index("value_p99")] - values[:, names.index("value_p01")]
        of_values = max(_LEAST_WIDTH_OF_VALUES * float(np.median(span)), 1e-6)
        self.least_width = np.where(self.lengths | self.noise, math.log(_LEAST_WIDTH), of_values)

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        logarithms = np.log(np.maximum(np.where(self.noise, values + 1, values), 1e-6))
        return np.where(self.lengths | self.noise, logarithms, values)

    def back(self, scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        powers = np.exp(np.where(self.lengths | self.noise, scaled, 0.0)) - self.noise
        return np.where(self.lengths | self.noise, powers, scaled)


def _central(scaled: NDArray[np.float64], least_width: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Low, high, width."""
    low, high = np.quantile(scaled, _CENTRAL, axis=0)
    return low, high, np.maximum(high - low, least_width)


def _excess(
    scaled: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], width: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.maximum(0.0, np.maximum(low - scaled, scaled - high)) / width


def _short(value: object) -> str:
    return f"{value:.3g}"
