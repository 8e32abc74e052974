"""What a network must beat on scans of elsewhere: models fitted within the judged cohort, each patient by the others.

A bundle does not hold the scans that it was developed on, so there is nothing else to fit them on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from med_transfer.metrics.baselines import handcrafted_within
from med_transfer.metrics.cross_validation import fewest_patients, patient_folds
from med_transfer.metrics.shortcut_metrics import ACQUISITION_BASELINE, Shortcuts
from med_transfer.metrics.shortcuts import Development, acquisition_within

FEWEST_PATIENTS = 10  # of a class; below that a model that is fitted within the cohort says nothing


def baselines_within(
    features: NDArray[np.floating], judged: Development
) -> tuple[dict[str, NDArray[np.float64]], Shortcuts | None]:
    """Name to probabilities [scan, class], and what the acquisition gives away; nothing where a class has few patients.

    Args:
        features: handcrafted ones [scan, feature].
        judged: the scans, which learn from each other.
    """
    if fewest_patients(judged.truth, judged.patients) < FEWEST_PATIENTS:
        return {}, None
    folds = patient_folds(judged.truth, judged.patients, judged.labels)
    handcrafted = handcrafted_within(features, judged.truth, folds, multilabel=judged.labels.multilabel)
    acquisition, shortcuts = acquisition_within(judged)
    facts = {ACQUISITION_BASELINE: acquisition} if acquisition is not None else {}
    return {"handcrafted": handcrafted} | facts, shortcuts
