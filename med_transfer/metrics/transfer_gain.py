"""Transfer gain: whether the transfer helps or harms, against the same network trained from scratch."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors.sentence import Sentence
from med_transfer.metrics.comparison import paired_difference
from med_transfer.metrics.intervals import PatientBootstrap
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.metrics import MIN_PATIENTS_OF_GAIN, TransferGain

N_MEASURES = 2  # number of measures that can decide the verdict


def transfer_gain(
    transferred: LabelledPredictions,
    scratch: LabelledPredictions | NDArray[np.floating],
    seed: int = 0,
    n_boot: int = 2000,
) -> TransferGain:
    """Return transferred minus scratch on the same test scans, paired by patient.

    The verdict is ``gain`` if the 97.5 % interval of the difference in macro AUC or balanced accuracy lies above 0
    and neither lies below, and ``harm`` vice versa. Otherwise it is ``none``, which means that neither was shown, not
    that they are equal; so it is with fewer than seven patients, of whom no exact test could show a difference. The
    error rate for equal networks is at most 5 %: 2.5 % for each of the two measures (Bonferroni). The estimates have
    95 % intervals.

    Args:
        transferred: predictions of the transferred network, with its operating point.
        scratch: predictions of the network trained from scratch with an equal budget; or only its probabilities
            [scan, class] if both have the same operating point.
        seed, n_boot: seed and draws of the patient bootstrap.

    Raises:
        UsageError: the arrays have different shapes.

    Source: negative transfer measured against scratch, Wang et al. 2019, CVPR, arXiv:1811.09751.
    """
    if not isinstance(scratch, LabelledPredictions):
        scratch = transferred.scored_by(scratch)
    bootstrap = PatientBootstrap(transferred.patients, n_boot, seed)
    difference = paired_difference(transferred, scratch, bootstrap)
    strict = paired_difference(transferred, scratch, bootstrap, confidence=1 - 0.05 / N_MEASURES)
    return TransferGain(
        balanced_sensitivity=difference.balanced_accuracy,
        macro_auc=difference.macro_auc,
        verdict=_verdict({strict.balanced_accuracy.excludes_zero, strict.macro_auc.excludes_zero})
        if transferred.n_patients >= MIN_PATIENTS_OF_GAIN
        else "none",
        n_patients=transferred.n_patients,
        method=Sentence(
            "transferred minus scratch on the same scans; gain or harm when the 97.5 % interval of either measure "
            "excludes 0 and the other does not contradict: corrected for looking at two measures"
        ),
    )


def _verdict(signs: set[int]) -> Literal["gain", "none", "harm"]:
    """Verdict from the sides of 0 (+1, 0 or -1) on which the intervals of both measures lie."""
    if signs in ({1}, {0, 1}):
        return "gain"
    if signs in ({-1}, {0, -1}):
        return "harm"
    return "none"
