"""Repeated cross-validation: other folds of the same patients, so that results depend less on one division."""

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
    """The first repeat's ensemble, with out-of-fold probabilities and novelty averaged over all repeats.

    Each scan's probabilities are thus the mean of several networks that were trained without the patient, as the
    bundle's are the mean of its fold models; see docs/decisions/0032-small-cohorts-are-cross-validated.md. The networks
    of further repeats are not kept; their validation predictions are, in ``folder``, so that a run can be resumed.

    Args:
        train: trains on the run data of a repeat, given its number, counted from 2.

    Raises:
        UsageError: kept predictions are damaged.
    """
    without = first.without_evidence[0]
    found = [(first.validation, first.validation_novelty, without)]
    names = [tensor_hash(tensor) for tensor in run_data.prepared.tensors]  # rows may be reordered before a resumed run
    for repeat, split in enumerate(run_data.split.further, start=2):
        file = repeat_file(folder, repeat)
        if not file.exists():
            trained = train(replace(run_data, split=split), repeat)
            outputs = {
                "probabilities": trained.validation,
                "novelty": trained.validation_novelty,
                "without_evidence": np.mean(trained.without_evidence, axis=0),
            }
            ArrayCache(folder).write(file.stem, outputs, {"scans": [names[case] for case in split.validated]})
        for number in range(split.n_fold_models):  # also leftovers of an interrupted run
            shutil.rmtree(folder / fold_folder(number, repeat), ignore_errors=True)
        with left_behind(file):
            entry = ArrayCache(folder).read(file.stem)
            if entry is None:
                raise ValueError("not as it was written")
            wanted = [names[case] for case in run_data.split.validated]
            kept = entry.record.get("scans", wanted)  # earlier versions did not record them
            row_of = {name: row for row, name in enumerate(kept)}
            rows = [row_of[name] for name in wanted]
            own = entry.arrays["without_evidence"][rows] if "without_evidence" in entry.arrays else without  # likewise
            found.append((entry.arrays["probabilities"][rows], entry.arrays["novelty"][rows], own))
    if len(found) == 1:
        return first
    probabilities, novelty, held = zip(*found, strict=True)
    return replace(
        first,
        validation=np.mean(probabilities, axis=0),
        validation_novelty=np.mean(novelty, axis=0),
        repeats=tuple(probabilities),
        without_evidence=tuple(held),
    )


def repeat_file(folder: Path, repeat: int) -> Path:
    """The file with the validation predictions of a finished further repeat."""
    return folder / f"repeat-{repeat}.safetensors"


def measure_repeats(run_data: RunData, config: FinetuneConfig, trained: TrainedEnsemble, path: Path) -> Repeats | None:
    """Macro AUC and balanced accuracy of each repeat, with cross-fitted calls; None if there is only one repeat.

    Args:
        path: of the table of each repeat's predictions, which is written; see
            :mod:`med_transfer.predictions.by_repeat`.

    Raises:
        OutputError: the table cannot be written.
    """
    path.unlink(missing_ok=True)
    if not trained.repeats:
        return None
    cohort = run_data.prepared.cohort.subset(run_data.split.evaluated)
    areas, accuracies, rows = [], [], []
    for number, (split, probabilities) in enumerate(zip(run_data.split.repeats, trained.repeats, strict=True), start=1):
        calls = cross_fitted_calls(run_data, config, trained.of_repeat(number - 1))
        predictions = LabelledPredictions.of(cohort.truth, probabilities, cohort.patients, cohort.labels)
        predictions = replace(predictions, calls=calls)
        areas.append(macro_auc(predictions).value)
        accuracies.append(balanced_accuracy(predictions).value)
        fold_of = split.fold_of
        for position, (of_case, case) in enumerate(zip(run_data.split.evaluated, cohort.cases, strict=True)):
            called = ";".join(name for name, is_so in zip(cohort.labels.names, calls[position], strict=True) if is_so)
            rows.append(
                OfRepeat(case.scan, case.series_uid, number, fold_of[of_case], called, probabilities[position].tolist())
            )
    write_by_repeat(path, cohort.labels.names, rows)
    return Repeats(n=len(areas), macro_auc=areas, balanced_accuracy=accuracies)
