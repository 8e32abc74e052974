"""Conformal prediction sets: the classes of a scan that cannot be ruled out, with a guaranteed coverage."""

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
    """One threshold per class, as stored in the bundle. A set holds each class whose probability reaches its threshold.

    The guarantee is class-conditional: of new scans of a class, at least the requested share have that class in their
    set. It holds for any network, provided that calibration and new scans come from the same patient population and
    the same network (``docs/measured/prediction_sets.md`` reports on ensembles of folds). It does not bound the size of
    the sets.

    With exclusive classes, an empty set means that the scan is unlike the scans of every class. With several findings,
    those outside the set are ruled out, each with its own guarantee; there is no joint guarantee.

    Attributes:
        coverage: the requested share, in [0.5, 1).
        thresholds: [class]; 0 where there are too few patients to rule the class out.
        n_patients: [class], number of patients that each threshold was learned from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    coverage: Annotated[float, Field(ge=0.5, lt=1)]
    thresholds: tuple[Share, ...]
    n_patients: tuple[int, ...]

    def contains(self, probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return set membership as boolean [scan, class], for probabilities [scan, class]."""
        return probabilities >= np.array(self.thresholds)

    def written(self, probabilities: NDArray[np.float64], names: Sequence[str]) -> str:
        """Return one scan's set as text, from ``probabilities`` [class]: names joined by ``;``, ``{}`` if empty."""
        inside_set = self.contains(probabilities)
        return ";".join(name for name, inside in zip(names, inside_set, strict=True) if inside) or EMPTY_SET

    def fits(self, n_classes: int) -> bool:
        """Whether the sets are for this number of classes."""
        return len(self.thresholds) == len(self.n_patients) == n_classes


def fit_prediction_sets(
    probabilities: NDArray[np.float64], truth: NDArray[np.bool_], patients: Sequence[str], coverage: float
) -> PredictionSets:
    """Learn the thresholds from scans that the network was not trained on.

    Class-conditional split conformal prediction with the score 1 - probability of the true class. A patient with
    several scans of a class counts once, by the scan with the lowest probability: patients are exchangeable, scans of
    one patient are not. All scans of a new patient are then covered jointly.

    Args:
        probabilities, truth: [scan, class].
        patients: patient of each scan.
        coverage: the requested share, in [0.5, 1).

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
    """Return how many patients of a class are needed before it can be ruled out: 9 at 0.9, 19 at 0.95."""
    return math.ceil(round(coverage / (1 - coverage), 6))


def _threshold(probabilities: NDArray[np.float64], coverage: float) -> float:
    """The k-th largest of n, k = ceil((n + 1) coverage); 0 where k is more than n."""
    n = len(probabilities)
    rank = math.ceil(round((n + 1) * coverage, 6))
    return float(np.sort(probabilities)[n - rank]) if rank <= n else 0.0


def _lowest_by_patient(
    probability: NDArray[np.float64], has: NDArray[np.bool_], patients: Sequence[str]
) -> NDArray[np.float64]:
    """For each patient with the class, the lowest probability among the scans that have it: [patient]."""
    names, patient = np.unique(np.asarray(patients, dtype=str)[has], return_inverse=True)
    lowest = np.ones(len(names))
    np.minimum.at(lowest, patient, probability[has])
    return lowest
