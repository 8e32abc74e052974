"""The label budget job: from a cohort to the number of further labelled patients that a target takes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.backbones import find_backbone
from med_transfer.backbones.instance_pooling import with_instances
from med_transfer.bundle.provenance import seen_in_training, source_provenance
from med_transfer.cohorts import Cohort, Images, split_cohort
from med_transfer.errors import PatientLeak, UsageError
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.data_setup import resolve_preprocessing
from med_transfer.finetuning.split_choice import choose_by_table
from med_transfer.labelling.curve_samples import SubsetPredictions, curve_samples, distinct_sizes, sizes_of_curves
from med_transfer.labelling.finetuned import divisible, finetuned_curve, start_of_finetuning
from med_transfer.labelling.label_forecast import forecast, too_few_sizes
from med_transfer.labelling.probe_curve import CurvePlan, patients_learned, probe_curve, training_subsets
from med_transfer.labelling.record import MIN_SMALLEST_SUBSET, Budget, BudgetSettings
from med_transfer.labelling.report import write_budget
from med_transfer.model.classifier import stages_from_front
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.progress import Progress, silent
from med_transfer.selection.candidates import Candidate, Network, find_candidates
from med_transfer.selection.measuring import joined_features, require_finite
from med_transfer.selection.target import Groups, Target, folds_of_run, read_target

__all__ = ["Budget", "BudgetSettings", "label_budget"]

log = logging.getLogger(__name__)


def label_budget(
    cohort: Cohort,
    config: FinetuneConfig,
    out: Path | str,
    settings: BudgetSettings | None = None,
    progress: Progress = silent,
) -> Budget:
    """Measure learning curves on the training folds of a cohort, and write their forecasts.

    Args:
        cohort: the labelled table; scans that ``finetune`` would keep for testing are shown to no network.
        config: of the run that is to follow: backbone, input, split and, with ``settings.finetune``, all the rest.
        out: folder for budget.json, budget.png, and the features or runs; an interrupted job in it is resumed.
        settings: target, measure and way of measuring; None: the defaults.
        progress: reports progress.

    Raises:
        UsageError: ``settings.smallest`` exceeds the number of patients, or the folder holds another job.
        CohortError: an unknown class, too few patients, or a cohort that cannot be split or leaks.
        BackboneError: the backbone or its weights cannot be used.
        ConfigError: the backbone does not support the input.
        NothingDone: no scan can be used.
        OutputError: a result cannot be written.
    """
    settings, out = settings or BudgetSettings(), Path(out)
    config = choose_by_table(config, cohort)
    for name in settings.classes:
        cohort.labels.index(name)  # raises
    n_patients = len(set(cohort.patients))
    if settings.smallest and settings.smallest > n_patients:
        raise UsageError(f"smallest {settings.smallest}", expected=f"a part of the {n_patients} patients in the table")
    for reason, names in without_forecast(cohort, config, settings).items():  # before any weights are opened
        log.warning("%s: there will be a curve, but no forecast: %s", ", ".join(names), reason)
    measure = _by_finetuning if settings.finetune else _by_probe
    with sole_writer(out, "a label budget"):
        budget = _budget(settings, out, progress, *measure(cohort, config, settings, out, progress))
        write_budget(budget)
    return budget


def _budget(
    settings: BudgetSettings,
    out: Path,
    progress: Progress,
    predictions: SubsetPredictions,
    target: Target,
    backbone: str,
) -> Budget:
    curves = curve_samples(predictions, settings.measure, settings.n_draws, settings.seed)
    chosen = [curve for curve in curves if settings.is_requested(curve.name)]
    forecasts = []
    for done, curve in enumerate(chosen):
        progress("forecasts", done, len(chosen), curve.name)
        forecasts.append(forecast(curve, settings.target, settings.multiple))
    progress("forecasts", len(chosen), len(chosen))
    return Budget(
        settings=settings,
        forecasts=tuple(forecasts),
        backbone=backbone,
        n_patients=len(set(target.cohort.patients)),
        n_scans=len(target.cohort),
        n_folds=len(set(target.folds.tolist())),
        repeats=len(predictions.probabilities),
        folder=out,
        failed=target.failed,
    )


def without_forecast(cohort: Cohort, config: FinetuneConfig, settings: BudgetSettings) -> dict[str, list[str]]:
    """Reasons why curves cannot give a forecast, each with the names of these curves; found from the table alone.

    Raises:
        CohortError: too few patients, or a cohort that cannot be split or leaks.
    """
    split = split_cohort(cohort, config.split)
    training = cohort.subset(split.development)
    plan = curve_plan(training, folds_of_run(training, split, split.development, config), settings)
    if settings.finetune:
        plan = divisible(training, config, plan)
    subsets = training_subsets(training.truth, training.patients, plan)
    learned = patients_learned(subsets, training.truth, training.patients, plan)
    sizes = sizes_of_curves(*learned, settings.measure, training.labels)
    curves: dict[str, list[str]] = {}
    for name in filter(settings.is_requested, sizes):
        if reason := too_few_sizes(distinct_sizes(sizes[name])[0]):
            curves.setdefault(reason, []).append(name)
    return curves


def curve_plan(cohort: Cohort, folds: NDArray[np.intp], settings: BudgetSettings) -> CurvePlan:
    """The plan of subsets for a cohort's training folds, with as many folds as the run has."""
    return CurvePlan(
        smallest=settings.smallest or max(MIN_SMALLEST_SUBSET, 2 * len(cohort.labels)),
        n_sizes=settings.n_sizes,
        repeats=settings.repeats or (1 if settings.finetune else 10),
        n_folds=len(set(folds.tolist())),
        seed=settings.seed,
    )


def _by_probe(
    cohort: Cohort, config: FinetuneConfig, settings: BudgetSettings, out: Path, progress: Progress
) -> tuple[SubsetPredictions, Target, str]:
    candidate = _candidate(config)
    spec, backbone = candidate.spec, config.backbone
    chosen = spec.pooled_stages if backbone.pooled_stages is None else backbone.pooled_stages
    stages = stages_from_front(chosen, len(spec.stage_channels), spec.name)
    groups = _groups(resolve_preprocessing(spec, config), candidate.network)
    target = _target_without_leak(candidate.weights, cohort, config, groups, out, progress)
    require_finite(candidate.name, target.features[candidate.network.key], target.cohort)
    features = joined_features(target.features[candidate.network.key], stages)
    progress("linear probes", 0, 1)
    plan = curve_plan(target.cohort, target.folds, settings)
    predictions = probe_curve(features, target.cohort.truth, target.cohort.patients, target.cohort.labels, plan)
    progress("linear probes", 1, 1)
    return predictions, target, candidate.name


def _by_finetuning(
    cohort: Cohort, config: FinetuneConfig, settings: BudgetSettings, out: Path, progress: Progress
) -> tuple[SubsetPredictions, Target, str]:
    name, preprocessing = start_of_finetuning(config)
    target = _target_without_leak(config.backbone.weights, cohort, config, _groups(preprocessing), out, progress)
    plan = curve_plan(target.cohort, target.folds, settings)
    predictions = finetuned_curve(target.cohort, config, plan, out / "runs", progress)
    return predictions, target, name


def _target_without_leak(
    weights: Path | None, cohort: Cohort, config: FinetuneConfig, groups: Groups, out: Path, progress: Progress
) -> Target:
    """The training folds and their features.

    Raises:
        PatientLeak: the source was trained on some of them; checked by patient first, then by image.
    """
    _refuse_leaking_source(weights, cohort, [()] * len(cohort))
    target = read_target(cohort, config, groups, out / "cache", progress)
    _refuse_leaking_source(weights, target.cohort, target.hashes)
    return target


def _groups(preprocessing: PreprocessingConfig, *networks: Network) -> Groups:
    groups: Groups = {}
    groups.setdefault(preprocessing, []).extend(networks)
    return groups


def _candidate(config: FinetuneConfig) -> Candidate:
    backbone = config.backbone
    given = [(backbone.name, backbone.weights)] if backbone.weights else []
    with_instances(find_backbone(backbone.name), backbone.instances)  # raises if the backbone has nothing to pool
    return find_candidates(
        [backbone.name], given, backbone.accept_licence, config.input.channels_of_network, backbone.instances
    ).ready[0]


def _refuse_leaking_source(weights: Path | None, cohort: Cohort, hashes: Sequence[Images]) -> None:
    """Refuse a source that was trained on these patients: its features would already contain their labels."""
    seen = seen_in_training(source_provenance(weights), cohort, hashes)
    if seen:
        raise PatientLeak(
            f"the source was trained on {len(seen)} of these scans or their patients",
            where=weights or "",
            expected="a source that never saw these patients",
            action="Choose another source",
        )
