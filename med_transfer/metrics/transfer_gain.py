"""Did the transfer help: against the same network trained from scratch, or is it negative transfer."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors.sentence import Sentence
from med_transfer.metrics.comparison import paired_difference
from med_transfer.metrics.intervals import PatientBootstrap
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.metrics import TransferGain

LOOKS = 2  # measures that can make a verdict


def transfer_gain(
    transferred: LabelledPredictions,
    scratch: LabelledPredictions | NDArray[np.floating],
    seed: int = 0,
    n_boot: int = 2000,
) -> TransferGain:
    """Transferred minus scratch on the same test scans, patient by patient.

    ``gain`` when the 97.5 % interval of the difference in macro AUC or in balanced sensitivity lies above 0 and
    neither lies below; ``harm`` the other way round; else ``none``, which means "no difference shown" and not
    "shown to be equal". Two equal networks are told apart in at most 5 % of test sets: 2.5 % for each of the two looks
    (Bonferroni). The estimates have 95 % intervals.

    Args:
        transferred: what the transferred network says of the scans, with its operating point.
        scratch: the same of the network from scratch, trained at equal budget; or its probabilities [scan, class] alone
            where both have the same operating point.
        seed, n_boot: of the patient bootstrap.

    Raises:
        UsageError: when the arrays do not belong together.

    Source: negative transfer measured against scratch, Wang et al. 2019, CVPR, arXiv:1811.09751.
    """
    if not isinstance(scratch, LabelledPredictions):
        scratch = transferred.scored_by(scratch)
    bootstrap = PatientBootstrap(transferred.patients, n_boot, seed)
    difference = paired_difference(transferred, scratch, bootstrap)
    strict = paired_difference(transferred, scratch, bootstrap, confidence=1 - 0.05 / LOOKS)
    return TransferGain(
        balanced_sensitivity=difference.balanced_accuracy,
        macro_auc=difference.macro_auc,
        verdict=_verdict({strict.balanced_accuracy.excludes_zero, strict.macro_auc.excludes_zero}),
        n_patients=transferred.n_patients,
        method=Sentence(
            "transferred minus scratch on the same scans; gain or harm when the 97.5 % interval of either measure "
            "excludes 0 and the other does not contradict: corrected for looking at two measures"
        ),
    )


def _verdict(signs: set[int]) -> Literal["gain", "none", "harm"]:
    """+1, 0 or -1 of both measures: on which side of 0 their intervals lie."""
    if signs in ({1}, {0, 1}):
        return "gain"
    if signs in ({-1}, {0, -1}):
        return "harm"
    return "none"
