"""The slow way to a learning curve: fine-tuning on nested subsets of the patients, each in its own run folder.

::

    FOLDER/repeat-0/fold-1/patients-24/     a run folder as of ``med-transfer finetune``
    FOLDER/prepared/                        the prepared scans, shared by all runs
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
    """The runs' backbone in words, and their preprocessing. Raises BackboneError, ConfigError."""
    backbone = config.backbone
    source = load_source(config)
    where = "" if source.sha256 else ", from scratch"
    given = f" ({backbone.weights})" if backbone.weights else ""
    return f"{source.spec.name}{given}{where}", resolve_preprocessing(source.spec, config)


def finetuned_curve(
    cohort: Cohort, config: FinetuneConfig, plan: CurvePlan, folder: Path, progress: Progress
) -> SubsetPredictions:
    """Cross-validated predictions by runs on increasing numbers of patients; finished runs are not trained again.

    Args:
        cohort: the training folds, each scan usable.
        config: of every run, except for what :func:`_network_alone` removes.
        plan: sizes, repeats and folds; the smallest size is increased until the config's split is possible.
        folder: of the run folders.
        progress: reports progress.

    Raises:
        TooFewPatients: even the largest subset cannot be split as the config asks.
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
    """The config without parts that do not affect predictions, some of which small subsets would not allow."""
    record = config.model_dump()
    record["transfer"]["on_harm"] = "report"  # without that baseline there is nothing to fall back to
    record["split"]["repeats"] = 1  # a run's own evaluation is not used
    left_out = {"from_scratch_baseline": False, "fusion": None, "operating_point": {}, "explain": {"gallery": 0}}
    return FinetuneConfig.model_validate(record | left_out)


def _subset_cohort(cohort: Cohort, subset: TrainingSubset) -> Cohort:
    """The scans of a training subset and of its test patients, with the split column set accordingly."""
    chosen = cohort.subset(np.flatnonzero(subset.train | subset.test))
    tests = subset.test[subset.train | subset.test]
    cases = [replace(case, split="test" if test else "train") for case, test in zip(chosen.cases, tests, strict=True)]
    return replace(chosen, cases=tuple(cases))


def divisible(cohort: Cohort, config: FinetuneConfig, plan: CurvePlan) -> CurvePlan:
    """The plan with the smallest size at which every subset can be split into training and validation.

    Raises:
        TooFewPatients: there is no such size.
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
    """Link the run's folder of prepared scans to the shared one: all runs have the same input, read only once."""
    prepared, shared = run / "prepared", folder / "prepared"
    shared.mkdir(parents=True, exist_ok=True)
    run.mkdir(parents=True, exist_ok=True)
    if not prepared.exists():
        with suppress(OSError):  # on a file system without links each run reads the scans itself
            prepared.unlink(missing_ok=True)  # a broken link: earlier versions made absolute ones
            prepared.symlink_to(os.path.relpath(shared, run), target_is_directory=True)


def _predict(bundle: Path, cohort: Cohort, folder: Path) -> NDArray[np.float64]:
    """Probabilities [scan, class] of the run's test scans, shifted to equal class frequencies, as for probes.

    So the most probable class is the one that the bundle calls.
    """
    record = read_record(bundle)
    preprocessing, multilabel = record.preprocessing, record.multilabel
    margin = margin_voxels(preprocessing.shape)
    prepared = prepare_cohort(cohort, Preprocessing(preprocessing), folder / "prepared", margin).without_margin(margin)
    frequency = record.calibration.without_evidence(len(record.classes), multilabel=multilabel)
    probabilities, _ = predict(load_network(bundle), prepared)
    return shifted(probabilities, -log_prior_ratio(frequency, multilabel=multilabel), multilabel=multilabel)
