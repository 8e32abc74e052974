"""Coverage and size of prediction sets on labelled scans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors.sentence import Sentence
from med_transfer.metrics.class_rates import class_rate
from med_transfer.metrics.config import EvaluationConfig
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.reasons import no_case
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.metrics.records.prediction_sets import ClassSets, SetMetrics
from med_transfer.model.calibration import PredictionSets
from med_transfer.predictions.labels import Labels


def measure_sets(
    predictions: LabelledPredictions,
    sets: PredictionSets,
    config: EvaluationConfig = EvaluationConfig(),  # noqa: B008 (frozen)
) -> SetMetrics:
    """Measure prediction sets.

    Args:
        predictions: the scans, with the probabilities that the sets are computed from.
        sets: the prediction sets, learned from validation scans.
        config: interval method of the shares.
    """
    truth, patients, labels = predictions.truth, predictions.patients, predictions.labels
    in_set = sets.contains(predictions.probabilities)

    def share(hits: NDArray[np.bool_], of: Sequence[str], without: str) -> Estimate:
        """A proportion with the same intervals as a rate: the sensitivity for a finding that all scans have."""
        if not len(hits):
            return Estimate.undefined(without)
        hit = Labels(("hit",), multilabel=True)
        hit_predictions = LabelledPredictions.of(
            np.ones((len(hits), 1), dtype=bool), hits[:, None].astype(float), of, hit
        )
        return class_rate(hit_predictions, 0, "sensitivity", config)

    single = in_set.sum(axis=1) == 1
    right = np.asarray((in_set & truth)[single].any(axis=1))
    of_pairs = [patient for patient, own in zip(patients, truth, strict=True) for _ in range(own.sum())]
    return SetMetrics(
        target=sets.coverage,
        coverage=share(in_set[truth], of_pairs, Sentence("no scan has a class")),
        classes={
            name: ClassSets(
                coverage=share(
                    in_set[truth[:, c], c],
                    _among(patients, truth[:, c]),
                    no_case(name),
                ),
                threshold=sets.thresholds[c],
                n_patients=sets.n_patients[c],
            )
            for c, name in enumerate(labels.names)
        },
        sizes=np.bincount(in_set.sum(axis=1), minlength=len(labels) + 1).tolist(),
        right_when_single=None
        if labels.multilabel
        else share(right, _among(patients, single), "no set holds exactly one class"),
    )


def _among(patients: Sequence[str], scans: NDArray[np.bool_]) -> list[str]:
    return [patient for patient, marked in zip(patients, scans, strict=True) if marked]
