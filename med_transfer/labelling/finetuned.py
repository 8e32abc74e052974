"""The slow way to a learning curve: real fine-tunings on nested subsets of the patients, each a run folder.

::

    FOLDER/repeat-0/fold-1/patients-24/     a run as ``med-transfer finetune`` leaves it
    FOLDER/prepared/                        the scans as the network sees them, once for all runs
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.bundle import load_network, read_record
from med_transfer.cohorts import Cohort, prepare_cohort, split_cohort
from med_transfer.errors import TooFewPatients
from med_transfer.evaluation.evaluate import predict
from med_transfer.finetuning import FinetuneConfig, finetune
from med_transfer.finetuning.augmentation import margin_voxels
from med_transfer.finetuning.data_setup import resolve_preprocessing
from med_transfer.finetuning.run import load_source
from med_transfer.labelling.curve_samples import SubsetPredictions
from med_transfer.labelling.probe_curve import CurvePlan, TrainingSubset, evaluate_subsets, training_subsets
from med_transfer.model.calibration import log_prior_ratio, shifted
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.progress import Progress


def start_of_finetuning(config: FinetuneConfig) -> tuple[str, PreprocessingConfig]:
    """What the runs start from, in words, and what their network sees. Raises BackboneError, ConfigError."""
    backbone = config.backbone
    source = load_source(config)
    where = "" if source.sha256 else ", from scratch"
    given = f" ({backbone.weights})" if backbone.weights else ""
    return f"{source.spec.name}{given}{where}", resolve_preprocessing(source.spec, config)


def finetuned_curve(
    cohort: Cohort, config: FinetuneConfig, plan: CurvePlan, folder: Path, progress: Progress
) -> SubsetPredictions:
    """Predictions of every patient by runs that learned from ever more others; finished runs are not trained again.

    Args:
        cohort: the training folds, each scan usable.
        config: of every run, but for what :func:`_network_alone` leaves out.
        plan: sizes, repeats and folds; the smallest size grows until the config's split can divide it.
        folder: of the run folders.
        progress: told how far it is.

    Raises:
        TooFewPatients: even the largest subset cannot be divided as the config asks.
    """
    config = _network_alone(config)
    plan = divisible(cohort, config, plan)
    n_runs, done = len(training_subsets(cohort.truth, cohort.patients, plan)), 0

    def train_and_predict(subset: TrainingSubset) -> NDArray[np.float64]:
        nonlocal done
        progress("fine-tunings", done, n_runs, f"{subset.n_patients} patients")
        run = folder / f"repeat-{subset.repeat}" / f"fold-{subset.fold}" / f"patients-{subset.n_patients}"
        _share_prepared_scans(run, folder)
        bundle = finetune(_subset_cohort(cohort, subset), config, run).bundle
        done += 1
        return _predict(bundle, cohort.subset(np.flatnonzero(subset.test)), folder)

    predictions = evaluate_subsets(train_and_predict, cohort.truth, cohort.patients, cohort.labels, plan)
    progress("fine-tunings", n_runs, n_runs)
    return predictions


def _network_alone(config: FinetuneConfig) -> FinetuneConfig:
    """The config without what has no say in the predictions; small subsets refuse some of it."""
    record = config.model_dump()
    record["transfer"]["on_harm"] = "report"  # without that baseline there is nothing to fall back to
    record["split"]["repeats"] = 1  # a run's own evaluation is not looked at
    left_out = {"from_scratch_baseline": False, "fusion": None, "operating_point": {}, "explain": {"gallery": 0}}
    return FinetuneConfig.model_validate(record | left_out)


def _subset_cohort(cohort: Cohort, subset: TrainingSubset) -> Cohort:
    """The scans of a training subset and of its test patients, with the split column that makes a run of it."""
    chosen = cohort.subset(np.flatnonzero(subset.train | subset.test))
    tests = subset.test[subset.train | subset.test]
    cases = [replace(case, split="test" if test else "train") for case, test in zip(chosen.cases, tests, strict=True)]
    return replace(chosen, cases=tuple(cases))


def divisible(cohort: Cohort, config: FinetuneConfig, plan: CurvePlan) -> CurvePlan:
    """The plan from the first size on at which every subset can be split into training and validation.

    Raises:
        TooFewPatients: there is none.
    """
    refusal, divided = None, _network_alone(config).split
    for smallest in range(plan.smallest, len(set(cohort.patients))):
        larger = replace(plan, smallest=smallest)
        try:
            for subset in training_subsets(cohort.truth, cohort.patients, larger):
                split_cohort(_subset_cohort(cohort, subset), divided)
            return larger
        except TooFewPatients as error:
            refusal = refusal or error
    raise refusal or TooFewPatients(
        f"{len(set(cohort.patients))} patients", where=cohort.path or "", expected=f"more than {plan.smallest}"
    )


def _share_prepared_scans(run: Path, folder: Path) -> None:
    """All runs see the same input: a scan is read for the first of them only."""
    prepared, shared = run / "prepared", folder / "prepared"
    shared.mkdir(parents=True, exist_ok=True)
    run.mkdir(parents=True, exist_ok=True)
    if not prepared.exists():
        with suppress(OSError):  # on a drive without links each run reads its own
            prepared.unlink(missing_ok=True)  # the link of a folder that was moved, from before they were relative
            prepared.symlink_to(os.path.relpath(shared, run), target_is_directory=True)


def _predict(bundle: Path, cohort: Cohort, folder: Path) -> NDArray[np.float64]:
    """Probabilities [scan, class] of the scans that the run did not learn from, at equal classes, as probes give them.

    So the most probable class is the one that the bundle calls.
    """
    record = read_record(bundle)
    preprocessing, multilabel = record.preprocessing, record.multilabel
    margin = margin_voxels(preprocessing.shape)
    prepared = prepare_cohort(cohort, Preprocessing(preprocessing), folder / "prepared", margin).without_margin(margin)
    frequency = record.calibration.without_evidence(len(record.classes), multilabel=multilabel)
    probabilities, _ = predict(load_network(bundle), prepared)
    return shifted(probabilities, -log_prior_ratio(frequency, multilabel=multilabel), multilabel=multilabel)
