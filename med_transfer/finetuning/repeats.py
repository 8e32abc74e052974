"""Repeated cross-validation: the same patients in other folds, so that less hangs on how they were divided."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from med_transfer.cohorts import ArrayCache
from med_transfer.cohorts.left_behind import left_behind
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.decisions.validation_decisions import cross_fitted_calls
from med_transfer.finetuning.features import tensor_hash
from med_transfer.finetuning.folds import TrainedEnsemble, fold_folder
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.measures import balanced_accuracy, macro_auc
from med_transfer.metrics.records.metrics import Repeats
from med_transfer.predictions.by_repeat import OfRepeat, write_by_repeat


def with_repeats(
    first: TrainedEnsemble, run_data: RunData, train: Callable[[RunData, int], TrainedEnsemble], folder: Path
) -> TrainedEnsemble:
    """The first repeat's networks, with the mean over all repeats of each validation scan's out-of-fold probabilities.

    That is the mean of as many networks, each without the patient, as the bundle's is the mean of its fold models; see
    docs/decisions/0032-small-cohorts-are-cross-validated.md. Networks of further repeats are not kept: what they said
    of their validation scans is, in ``folder``, for a run that goes on.

    Args:
        train: on the run data of a repeat, with its number from 2 on.
    """
    found = [(first.validation, first.validation_novelty)]
    names = [tensor_hash(tensor) for tensor in run_data.prepared.tensors]  # the table may come back in another order
    for repeat, split in enumerate(run_data.split.further, start=2):
        file = repeat_file(folder, repeat)
        if not file.exists():
            trained = train(replace(run_data, split=split), repeat)
            said = {"probabilities": trained.validation, "novelty": trained.validation_novelty}
            ArrayCache(folder).write(file.stem, said, {"scans": [names[case] for case in split.validated]})
        for number in range(split.n_fold_models):  # also what a kill has left
            shutil.rmtree(folder / fold_folder(number, repeat), ignore_errors=True)
        with left_behind(file):
            entry = ArrayCache(folder).read(file.stem)
            if entry is None:
                raise ValueError("not as it was written")
            asked = [names[case] for case in run_data.split.validated]
            kept = entry.record.get("scans", asked)  # earlier versions do not tell them
            row_of = {name: row for row, name in enumerate(kept)}
            place = [row_of[name] for name in asked]
            found.append((entry.arrays["probabilities"][place], entry.arrays["novelty"][place]))
    if len(found) == 1:
        return first
    probabilities, novelty = zip(*found, strict=True)
    return replace(
        first,
        validation=np.mean(probabilities, axis=0),
        validation_novelty=np.mean(novelty, axis=0),
        repeats=tuple(probabilities),
    )


def repeat_file(folder: Path, repeat: int) -> Path:
    """What the networks of a finished further repeat said."""
    return folder / f"repeat-{repeat}.safetensors"


def measure_repeats(run_data: RunData, config: FinetuneConfig, trained: TrainedEnsemble, path: Path) -> Repeats | None:
    """Each repeat measured by itself, called by what its other patients led to; None where there is one.

    Args:
        path: of the table of what each repeat said; see :mod:`med_transfer.predictions.by_repeat`.

    Raises:
        OutputError: it cannot be written.
    """
    path.unlink(missing_ok=True)
    if not trained.repeats:
        return None
    cohort = run_data.prepared.cohort.subset(run_data.split.evaluated)
    areas, accuracies, rows = [], [], []
    for number, (split, said) in enumerate(zip(run_data.split.repeats, trained.repeats, strict=True), start=1):
        calls = cross_fitted_calls(run_data, config, replace(trained, validation=said))
        predictions = LabelledPredictions.of(cohort.truth, said, cohort.patients, cohort.labels)
        predictions = replace(predictions, calls=calls)
        areas.append(macro_auc(predictions).value)
        accuracies.append(balanced_accuracy(predictions).value)
        fold_of = split.fold_of
        for position, (of_case, case) in enumerate(zip(run_data.split.evaluated, cohort.cases, strict=True)):
            called = ";".join(name for name, is_so in zip(cohort.labels.names, calls[position], strict=True) if is_so)
            rows.append(OfRepeat(case.scan, case.series_uid, number, fold_of[of_case], called, said[position].tolist()))
    write_by_repeat(path, cohort.labels.names, rows)
    return Repeats(n=len(areas), macro_auc=areas, balanced_accuracy=accuracies)
