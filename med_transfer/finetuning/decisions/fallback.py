"""Which network the bundle keeps if transfer harms. Decided on validation scans, never on test scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from med_transfer.cohorts import Cohort
from med_transfer.errors.sentence import Sentence
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.folds import TrainedEnsemble
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.metrics import KeptNetwork, TransferGain
from med_transfer.metrics.transfer_gain import transfer_gain

_NO_TRANSFER = Sentence("There was no transfer: the network is from scratch.")
_ONLY_REPORTED = Sentence(
    "The transferred network was kept; whether transfer helped or harmed was only to be reported."
)
_NOT_MEASURED = Sentence(
    "The transferred network was kept; whether transfer helped or harmed was not measured, as there is no network from "
    "scratch beside it."
)
_REASON_BY_VERDICT = {
    "harm": Sentence("Transfer harmed on them, so the network from scratch was kept"),
    "none": Sentence("Neither gain nor harm was shown on them, so the transferred network was kept"),
    "gain": Sentence("Transfer helped on them, so the transferred network was kept"),
}


def choose_network(
    run_data: RunData, config: FinetuneConfig, trained: TrainedEnsemble, scratch: TrainedEnsemble | None
) -> KeptNetwork:
    """The transferred network, unless ``transfer.on_harm`` is ``fallback`` and transfer harms on validation scans.

    Harm is judged by the report's verdict (:func:`transfer_gain`), on out-of-fold predictions of the validation scans.
    If these scans also chose the epoch to keep, both networks look somewhat better than they are; only their difference
    counts here. No test scan has been predicted yet.
    """
    rule = config.transfer.on_harm
    if config.transfer.strategy.name == "scratch":
        return KeptNetwork(network="scratch", rule=rule, sentence=_NO_TRANSFER)
    if scratch is None:
        return KeptNetwork(network="transferred", rule=rule, sentence=_NOT_MEASURED)
    if rule == "report":
        return KeptNetwork(network="transferred", rule=rule, sentence=_ONLY_REPORTED)
    gain = gain_on_validation((trained, scratch), run_data, config.seed)
    network = "scratch" if gain.verdict == "harm" else "transferred"
    n, tested = len(run_data.split.validated), bool(run_data.split.test)
    sentence = _decision(n, _REASON_BY_VERDICT[gain.verdict], tested=tested)
    return KeptNetwork(network=network, rule=rule, validation=gain, sentence=sentence)


def gain_on_validation(ensembles: Sequence[TrainedEnsemble], run_data: RunData, seed: int) -> TransferGain:
    """Transferred minus from scratch on the validation scans, in the first repeat.

    Args:
        ensembles: the transferred one, then the one from scratch.
        run_data: of both.
        seed: of the bootstrap.
    """
    cohort, split = run_data.prepared.cohort.subset(run_data.split.validated), run_data.split
    firsts = [one.of_repeat(0) for one in ensembles]
    scored = [_scored(one, one.validation, cohort) for one in firsts]
    calls = [one.balanced_calls(cohort.labels) for one in firsts]
    out_of_fold = split.n_fold_models > 1 or not split.test
    transferred, scratch = (
        replace(each, calls=own, out_of_fold=out_of_fold) for each, own in zip(scored, calls, strict=True)
    )
    return transfer_gain(transferred, scratch, seed)


def gain_on_test(
    ensembles: Sequence[TrainedEnsemble], probabilities: Sequence[NDArray[np.float64]], test: Cohort, seed: int
) -> TransferGain:
    """As :func:`gain_on_validation`, on test scans with the probabilities [scan, class] of each ensemble."""
    predictions = zip(ensembles, probabilities, strict=True)
    transferred, scratch = (_scored(one, given, test) for one, given in predictions)
    return transfer_gain(transferred, scratch, seed)


def _scored(ensemble: TrainedEnsemble, probabilities: NDArray[np.float64], cohort: Cohort) -> LabelledPredictions:
    """Probabilities [scan, class] with the truth, at the operating point that undoes class frequencies."""
    point = ensemble.balanced_point(cohort.labels)
    return LabelledPredictions.of(cohort.truth, probabilities, cohort.patients, cohort.labels, point)


def _decision(n: int, why: Sentence, *, tested: bool) -> Sentence:
    """The choice in words; without test scans the figures are of the scans that it was made on."""
    if tested:
        return Sentence(
            "Decided on the predictions of {n} validation scans by networks that had not trained on them, before any "
            "test scan was predicted. {why}. Every figure on test scans is the kept network's; the transfer gain "
            "compares both.",
            n=n,
            why=why,
        )
    return Sentence(
        "Decided on the predictions of {n} scans by networks that had not trained on them. {why}. All figures are the "
        "kept network's on the same scans, so they tend to be too high after a choice; the transfer gain compares "
        "both.",
        n=n,
        why=why,
    )
