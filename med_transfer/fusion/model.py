"""The fitted fusion as stored in the bundle: plain numbers, applied with NumPy only."""

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
MIN_PROBABILITY = 1e-6  # so that a logarithm stays finite
_PLACES = {"mask": "within a mask", "roi": "within a region of interest", "whole": "of the whole scan"}


@dataclass(frozen=True, eq=False)
class FusionScans:
    """Inputs of a fusion.

    Attributes:
        probabilities: calibrated probabilities of the network, [scan, class].
        handcrafted: [scan, feature], NaN where undefined.
        within: where each scan's handcrafted features were measured: mask, region of interest, or whole scan.
        columns: text of each scan by column name; an absent name was not given, an empty text is a missing value.
    """

    probabilities: NDArray[np.float64]
    handcrafted: NDArray[np.float64]
    within: Sequence[Within]
    columns: Sequence[Mapping[str, str]]

    def __len__(self) -> int:
        return len(self.probabilities)

    def take(self, rows: NDArray[np.intp] | Sequence[int]) -> FusionScans:
        """Return the scans at these positions."""
        return FusionScans(
            self.probabilities[rows],
            self.handcrafted[rows],
            [self.within[row] for row in rows],
            [self.columns[row] for row in rows],
        )


class Inputs(Record):
    """How the inputs of a scan are encoded as a feature vector.

    Attributes:
        use: the parts, in the order of the vector.
        classes, multilabel: classes of the network.
        handcrafted: the handcrafted features, with their medians.
        within: where they were measured in training.
        columns: learned encodings of the clinical columns.
    """

    use: tuple[Part, ...]
    classes: tuple[str, ...]
    multilabel: bool
    handcrafted: tuple[Numbers, ...] = ()
    within: tuple[Within, ...] = ()
    columns: tuple[Column, ...] = ()

    def names(self, part: Part) -> tuple[str, ...]:
        """Return the names of a part's features."""
        if part == "network":
            return tuple(f"network {name}" for name in self.classes)
        learned = self.handcrafted if part == "handcrafted" else self.columns
        return tuple(name for column in learned for name in column.features)

    def block(self, part: Part, scans: FusionScans) -> NDArray[np.float64]:
        """Return a part's features [scan, feature], before standardisation."""
        if part == "network":
            return network_features(scans.probabilities, multilabel=self.multilabel)
        if part == "handcrafted":
            return np.hstack([feature.encode(scans.handcrafted[:, n]) for n, feature in enumerate(self.handcrafted)])
        blocks = [
            column.encode_texts([texts.get(column.name, "") for texts in scans.columns]) for column in self.columns
        ]
        return np.hstack(blocks)

    def troubles(self, scans: FusionScans) -> list[str]:
        """Return, for each scan, why it cannot be fused; empty if it can."""
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
    """Reason for an absent column; columns that are empty in every row are dropped by ``clinical.with_values``."""
    return Sentence("column {name} is not given, or empty in every row", name=name)


def network_features(probabilities: NDArray[np.floating], *, multilabel: bool) -> NDArray[np.float64]:
    """Return calibrated logits [scan, class]: log odds of findings, or centred log probabilities of classes."""
    p = np.clip(np.asarray(probabilities, dtype=np.float64), MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    if multilabel:
        return np.log(p) - np.log1p(-p)
    return np.log(p) - np.log(p).mean(axis=1, keepdims=True)


class Combination(Record):
    """A linear model of some of the parts: ``((x - mean) / scale) @ weight.T + bias``, then softmax or sigmoid.

    Attributes:
        parts: the parts whose features it uses.
        features: names of the features.
        mean, scale: [feature], of the scans it was fitted on.
        weight: [class, feature].
        bias: [class].
        inverse_penalty: scikit-learn's ``C``.
        n_scans, n_patients: number of scans and patients it was fitted on.
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
        """Return probabilities [scan, class] for features [scan, feature]."""
        standard = (features - np.array(self.mean)) / np.array(self.scale)
        logits = standard @ np.array(self.weight).T + np.array(self.bias)
        if multilabel:
            return 1 / (1 + np.exp(-logits))
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Fused:
    """Fused probabilities [scan, class], NaN for scans that could not be fused, and the reasons (else empty)."""

    probabilities: NDArray[np.float64]
    reasons: list[str]

    @property
    def done(self) -> NDArray[np.bool_]:
        """Whether each scan could be fused, boolean [scan]."""
        return np.array([not reason for reason in self.reasons], dtype=bool)

    def complete(self, prediction: Prediction, row: int, classes: Sequence[str]) -> Prediction:
        """Return a scan's record with its fused probabilities, or with the reason why there are none."""
        if self.reasons[row]:
            why = Sentence("not fused: {why}", why=self.reasons[row])
            return replace(prediction, reason=joined(why, prediction.reason))
        return replace(prediction, fused=dict(zip(classes, self.probabilities[row].tolist(), strict=True)))


class Fusion(Record):
    """The fitted fusion, and models without some of its parts, for comparison.

    Attributes:
        combinations: one model per combination of parts, except the network alone; the first has all parts.
        method: how parts are combined; older bundles are always ``stacked``.
        report: whether the network (``image``) or the ``fused`` model is reported.
        balanced: whether classes were weighted by inverse frequency.
        shares: [class], share of the training scans with each class, for which probabilities are calibrated; empty in
            older bundles.
        warnings: columns that may reveal the label or identify the patient.
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
        """Operating point that calls what is more probable than by class frequency; older bundles get the default."""
        labels = Labels(self.inputs.classes, self.inputs.multilabel)
        return OperatingPoint.balanced(labels, self.shares) if self.shares else OperatingPoint.default(labels)

    def fuse(self, scans: FusionScans) -> Fused:
        """Fuse every scan whose inputs are complete."""
        reasons = self.inputs.troubles(scans)
        probabilities = np.full((len(scans), len(self.inputs.classes)), np.nan)
        rows = np.array([row for row, reason in enumerate(reasons) if not reason], dtype=int)
        if len(rows):
            probabilities[rows] = self.apply(self.combinations[0], scans.take(rows))
        return Fused(probabilities, reasons)

    def apply(self, combination: Combination, scans: FusionScans) -> NDArray[np.float64]:
        """Return probabilities [scan, class] of one combination; all inputs must be usable (``inputs.troubles``)."""
        features = np.hstack([self.inputs.block(part, scans) for part in combination.parts])
        return combination.probabilities(features, multilabel=self.inputs.multilabel)

    def by_parts(self, scans: FusionScans) -> dict[tuple[str, ...], NDArray[np.float64]]:
        """Return probabilities [scan, class] of every combination, and of the network alone, by parts."""
        alone: dict[tuple[str, ...], NDArray[np.float64]] = {("network",): scans.probabilities}
        return alone | {combination.parts: self.apply(combination, scans) for combination in self.combinations}
