"""The fitted fusion, as the bundle keeps it: plain numbers, applied with numpy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors.sentence import Sentence, joined
from med_transfer.fusion.clinical import Column, Numbers, Record
from med_transfer.fusion.config import Method, Part
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.record import Prediction

Within = Literal["mask", "roi", "whole"]
LEAST_PROBABILITY = 1e-6  # so that a logarithm stays finite
_PLACES = {"mask": "within a mask", "roi": "within a region of interest", "whole": "of the whole scan"}


@dataclass(frozen=True, eq=False)
class FusionScans:
    """What is known of scans.

    Attributes:
        probabilities: calibrated, of the network [scan, class].
        handcrafted: [scan, feature], NaN where undefined.
        within: what the handcrafted features of each scan describe: its mask, its region of interest, or all of it.
        columns: of each scan, name to text; a name that is not there was not asked for, an empty text is missing.
    """

    probabilities: NDArray[np.float64]
    handcrafted: NDArray[np.float64]
    within: Sequence[Within]
    columns: Sequence[Mapping[str, str]]

    def __len__(self) -> int:
        return len(self.probabilities)

    def take(self, rows: NDArray[np.intp] | Sequence[int]) -> FusionScans:
        """The scans at these positions."""
        return FusionScans(
            self.probabilities[rows],
            self.handcrafted[rows],
            [self.within[row] for row in rows],
            [self.columns[row] for row in rows],
        )


class Inputs(Record):
    """How a scan becomes a row of numbers.

    Attributes:
        use: the parts, in the order of the row.
        classes, multilabel: of the network.
        handcrafted: the features, with their medians.
        within: what they described in training.
        columns: the clinical columns, as learned.
    """

    use: tuple[Part, ...]
    classes: tuple[str, ...]
    multilabel: bool
    handcrafted: tuple[Numbers, ...] = ()
    within: tuple[Within, ...] = ()
    columns: tuple[Column, ...] = ()

    def names(self, part: Part) -> tuple[str, ...]:
        """Names of a part's features."""
        if part == "network":
            return tuple(f"network {name}" for name in self.classes)
        learned = self.handcrafted if part == "handcrafted" else self.columns
        return tuple(name for column in learned for name in column.features)

    def block(self, part: Part, scans: FusionScans) -> NDArray[np.float64]:
        """A part's features [scan, feature], before they are standardised."""
        if part == "network":
            return network_features(scans.probabilities, multilabel=self.multilabel)
        if part == "handcrafted":
            return np.hstack([feature.encode(scans.handcrafted[:, n]) for n, feature in enumerate(self.handcrafted)])
        blocks = [
            column.encode_texts([texts.get(column.name, "") for texts in scans.columns]) for column in self.columns
        ]
        return np.hstack(blocks)

    def troubles(self, scans: FusionScans) -> list[str]:
        """For each scan why it cannot be fused, empty when it can."""
        return [self._trouble(scans, row) for row in range(len(scans))]

    def _trouble(self, scans: FusionScans, row: int) -> str:
        reasons: list[str] = []
        if "handcrafted" in self.use:
            if scans.within[row] not in self.within:
                learned = " or ".join(_PLACES[within] for within in self.within)
                here = _PLACES[scans.within[row]]
                reasons.append(
                    Sentence("handcrafted features were learned {there}, these are {here}", there=learned, here=here)
                )
            undefined = [
                feature.name
                for feature, value in zip(self.handcrafted, scans.handcrafted[row], strict=True)
                if not np.isfinite(value) and not feature.with_missing
            ]
            reasons += [
                Sentence("handcrafted feature {name} is undefined here, and never was in training", name=name)
                for name in undefined[:1]
            ]
        for column in self.columns:
            text = scans.columns[row].get(column.name)
            given = text is not None
            reasons.append(column.trouble(text) if given else _not_given(column.name))
        return joined(*reasons)


def _not_given(name: str) -> Sentence:
    """Of a table's columns, those that are empty in every row are left out, see ``clinical.with_values``."""
    return Sentence("column {name} is not given, or empty in every row", name=name)


def network_features(probabilities: NDArray[np.floating], *, multilabel: bool) -> NDArray[np.float64]:
    """Calibrated logits [scan, class] again: log odds of findings, centred log-probabilities of classes."""
    p = np.clip(np.asarray(probabilities, dtype=np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    if multilabel:
        return np.log(p) - np.log1p(-p)
    return np.log(p) - np.log(p).mean(axis=1, keepdims=True)


class Combination(Record):
    """A linear model on some of the parts: ``((x - mean) / scale) @ weight.T + bias``, then softmax or sigmoid.

    Attributes:
        parts: whose features it takes; ``features`` are their names.
        mean, scale: [feature], of the scans it was fitted on.
        weight: [class, feature]; bias: [class].
        inverse_penalty: scikit-learn's ``C``.
        n_scans, n_patients: fitted on so many.
    """

    parts: tuple[Part, ...]
    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weight: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    inverse_penalty: float
    n_scans: int
    n_patients: int

    def probabilities(self, features: NDArray[np.float64], *, multilabel: bool) -> NDArray[np.float64]:
        """[scan, class] of features [scan, feature]."""
        standard = (features - np.array(self.mean)) / np.array(self.scale)
        logits = standard @ np.array(self.weight).T + np.array(self.bias)
        if multilabel:
            return 1 / (1 + np.exp(-logits))
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Fused:
    """Probabilities [scan, class], NaN where a scan could not be fused, and why not (empty where it could)."""

    probabilities: NDArray[np.float64]
    reasons: list[str]

    @property
    def done(self) -> NDArray[np.bool_]:
        """Boolean [scan]."""
        return np.array([not reason for reason in self.reasons], dtype=bool)

    def complete(self, prediction: Prediction, row: int, classes: Sequence[str]) -> Prediction:
        """A scan's record with its fused probabilities, or with the reason why there are none."""
        if self.reasons[row]:
            why = Sentence("not fused: {why}", why=self.reasons[row])
            return replace(prediction, reason=joined(why, prediction.reason))
        return replace(prediction, fused=dict(zip(classes, self.probabilities[row].tolist(), strict=True)))


class Fusion(Record):
    """Everything that was fitted: the fusion, and the same without some of the parts, to be held against it.

    Attributes:
        combinations: one for every choice of parts but the network alone, which needs none; the first has them all.
        method: how they were made; of bundles from before there was a choice, ``stacked``.
        report: whose figures are a report's main ones.
        balanced: whether classes were weighed by inverse frequency.
        shares: of the scans learned from that have each class, at which probabilities hold; empty in older bundles.
        warnings: columns that may give the answer, or the patient, away.
    """

    inputs: Inputs
    combinations: tuple[Combination, ...]
    method: Method = "stacked"
    report: Literal["image", "fused"] = "image"
    balanced: bool = True
    shares: tuple[float, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def balanced_point(self) -> OperatingPoint:
        """What a combination finds beyond the classes' frequency."""
        labels = Labels(self.inputs.classes, self.inputs.multilabel)
        return OperatingPoint.balanced(labels, self.shares) if self.shares else OperatingPoint.default(labels)

    def fuse(self, scans: FusionScans) -> Fused:
        """The fused answer of every scan whose inputs are all there."""
        reasons = self.inputs.troubles(scans)
        probabilities = np.full((len(scans), len(self.inputs.classes)), np.nan)
        rows = np.array([row for row, reason in enumerate(reasons) if not reason], dtype=int)
        if len(rows):
            probabilities[rows] = self.apply(self.combinations[0], scans.take(rows))
        return Fused(probabilities, reasons)

    def apply(self, combination: Combination, scans: FusionScans) -> NDArray[np.float64]:
        """Probabilities [scan, class] of one combination; every scan must have its inputs (``inputs.troubles``)."""
        features = np.hstack([self.inputs.block(part, scans) for part in combination.parts])
        return combination.probabilities(features, multilabel=self.inputs.multilabel)

    def by_parts(self, scans: FusionScans) -> dict[tuple[str, ...], NDArray[np.float64]]:
        """Probabilities [scan, class] of every combination, and of the network alone."""
        alone: dict[tuple[str, ...], NDArray[np.float64]] = {("network",): scans.probabilities}
        return alone | {combination.parts: self.apply(combination, scans) for combination in self.combinations}
