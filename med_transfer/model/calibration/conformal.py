"""Prediction sets: the classes of a scan that cannot be ruled out, holding the true one as often as was asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from med_transfer.model.calibration.calibrators import Share

EMPTY_SET = "{}"


class PredictionSets(BaseModel):
    """A threshold a class, as the bundle keeps it. A set holds every class whose probability reaches its threshold.

    For each class by itself: of new scans that have the class, the wanted share or more have it in their set. It holds
    for any network if calibration and new scans come from the same patients' population by the same network (see
    ``docs/measured/prediction_sets.md`` for what an ensemble of folds makes of that). It says nothing of how small
    the sets are.

    For one class a scan an empty set says that the scan resembles no class as its own scans do. Of several findings a
    scan those outside of the set are ruled out, each with its own guarantee; there is none for all findings at once.

    Attributes:
        coverage: the wanted share, in [0.5, 1).
        thresholds: by class; 0 where there are too few patients to rule the class out for anyone.
        n_patients: by class, the patients that the threshold was learned from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    coverage: Annotated[float, Field(ge=0.5, lt=1)]
    thresholds: tuple[Share, ...]
    n_patients: tuple[int, ...]

    def contains(self, probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Boolean [scan, class] of what is in the sets, from probabilities [scan, class]."""
        return probabilities >= np.array(self.thresholds)

    def written(self, probabilities: NDArray[np.float64], names: Sequence[str]) -> str:
        """One scan's set in a table: names joined by ``;``, ``{}`` when it is empty; ``probabilities`` is [class]."""
        inside_set = self.contains(probabilities)
        return ";".join(name for name, inside in zip(names, inside_set, strict=True) if inside) or EMPTY_SET

    def fits(self, n_classes: int) -> bool:
        """Whether it is of so many classes."""
        return len(self.thresholds) == len(self.n_patients) == n_classes


def fit_prediction_sets(
    probabilities: NDArray[np.float64], truth: NDArray[np.bool_], patients: Sequence[str], coverage: float
) -> PredictionSets:
    """Learn the thresholds from scans that the network was not trained on.

    Split conformal prediction with the score 1 - probability of the true class, for each class by itself. A patient
    with several scans of a class counts once, by the scan that is least like the class: scans of one patient are not
    exchangeable, patients are; all of a new patient's scans are then covered together.

    Args:
        probabilities, truth: [scan, class].
        patients: one entry a scan.
        coverage: the wanted share, in [0.5, 1).

    Sources: Vovk, Gammerman & Shafer 2005, Algorithmic Learning in a Random World, section 4.5 (class-conditional,
    "Mondrian"); Sadinle, Lei & Wasserman 2019, JASA 114:223 (thresholds by class, the smallest sets on average); for
    groups of scans Dunn, Wasserman & Ramdas 2023, JASA 118:2491.
    """
    lowest = [_lowest_by_patient(probabilities[:, c], truth[:, c], patients) for c in range(truth.shape[1])]
    return PredictionSets(
        coverage=coverage,
        thresholds=tuple(_threshold(values, coverage) for values in lowest),
        n_patients=tuple(len(values) for values in lowest),
    )


def least_patients(coverage: float) -> int:
    """Patients of a class that are needed before anything can be ruled out: 9 at 0.9, 19 at 0.95."""
    return math.ceil(round(coverage / (1 - coverage), 6))


def _threshold(probabilities: NDArray[np.float64], coverage: float) -> float:
    """The k-th largest of n, k = ceil((n + 1) coverage); 0 where k is more than n."""
    n = len(probabilities)
    rank = math.ceil(round((n + 1) * coverage, 6))
    return float(np.sort(probabilities)[n - rank]) if rank <= n else 0.0


def _lowest_by_patient(
    probability: NDArray[np.float64], has: NDArray[np.bool_], patients: Sequence[str]
) -> NDArray[np.float64]:
    """Of each patient who has the class, the least probability among the scans that have it: [patient]."""
    names, patient = np.unique(np.asarray(patients, dtype=str)[has], return_inverse=True)
    lowest = np.ones(len(names))
    np.minimum.at(lowest, patient, probability[has])
    return lowest
