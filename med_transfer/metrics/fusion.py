"""Compare the fused model with its parts, on scans that none of them was fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from med_transfer.metrics import measures
from med_transfer.metrics.class_rates import sensitivities
from med_transfer.metrics.comparison import paired_difference
from med_transfer.metrics.intervals import PatientBootstrap
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.fusion import FusionDifference, FusionModel
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.labels import Labels

Parts = tuple[str, ...]
_ALONE = {"network": "image-only", "handcrafted": "handcrafted-only", "columns": "columns-only"}


def fusion_figures(
    truth: NDArray[np.bool_],
    by_parts: Mapping[Parts, NDArray[np.float64]],
    patients: Sequence[str],
    labels: Labels,
    points: Mapping[Parts, OperatingPoint] = MappingProxyType({}),
    *,
    seed: int = 0,
    n_boot: int = 2000,
) -> dict[str, dict]:
    """Return ``models``, ``fused_minus`` and ``contributions`` of :class:`FusionMetrics`.

    Args:
        truth: boolean [scan, class].
        by_parts: probabilities [scan, class] of each model, by its parts; the model with most parts is the fused one.
        patients: patient of each scan.
        labels: class names.
        points: operating point of each model; by default the most probable class, or findings from 0.5.
        seed, n_boot: seed and draws of the patient bootstrap.
    """
    bootstrap = PatientBootstrap(patients, n_boot, seed)
    predictions = {
        parts: LabelledPredictions.of(truth, probabilities, patients, labels, points.get(parts))
        for parts, probabilities in by_parts.items()
    }
    use = max(predictions, key=len)
    alone = {_ALONE[part]: (part,) for part in use}
    without = {part: tuple(other for other in use if other != part) for part in use}
    minus = {
        parts: _difference(predictions[use], predictions[parts], bootstrap)
        for parts in dict.fromkeys([*alone.values(), *without.values()])
    }
    return {
        "models": {name: _model(predictions[parts]) for name, parts in (alone | {"fused": use}).items()},
        "fused_minus": {name: minus[parts] for name, parts in alone.items()},
        "contributions": {part: minus[parts] for part, parts in without.items()},
    }


def _model(predictions: LabelledPredictions) -> FusionModel:
    return FusionModel(
        macro_auc=measures.macro_auc(predictions),
        balanced_accuracy=measures.balanced_accuracy(predictions),
        sensitivity=sensitivities(predictions),
    )


def _difference(
    fused: LabelledPredictions, other: LabelledPredictions, bootstrap: PatientBootstrap
) -> FusionDifference:
    difference = paired_difference(fused, other, bootstrap)
    return FusionDifference(macro_auc=difference.macro_auc, balanced_accuracy=difference.balanced_accuracy)
