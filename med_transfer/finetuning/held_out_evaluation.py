"""After training: the test patients, met for the first time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.bundle import BundleRecord, versions
from med_transfer.bundle.model_card import model_card_rows
from med_transfer.errors.sentence import Sentence
from med_transfer.evaluation.evaluate import EvaluationInput, evaluate, predict
from med_transfer.finetuning.augmentation import margin_voxels
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.decisions.validation_decisions import cross_fitted_decisions
from med_transfer.finetuning.folds import TrainedEnsemble
from med_transfer.finetuning.repeats import measure_repeats
from med_transfer.metrics.baselines import baselines_within, fit_handcrafted, prevalence_only
from med_transfer.metrics.compute_metrics import PREVALENCE_BASELINE, KnownFigures
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.decisions import AccessCounts
from med_transfer.metrics.records.metrics import KeptNetwork, Metrics
from med_transfer.metrics.records.shortcuts import ACQUISITION_BASELINE, Shortcuts
from med_transfer.metrics.shortcuts import Development, fit_acquisition
from med_transfer.metrics.transfer_gain import transfer_gain
from med_transfer.predictions.by_repeat import REPEATS_FILE
from med_transfer.report.run_summary import (
    LearningCurve,
    RunSummary,
    cohort_counts,
    cohort_name,
    origin,
    participant_flow,
)


@dataclass(frozen=True)
class TrainedNetworks:
    """What a run has trained: the transferred ensemble, the one from scratch where there is one, and which is kept."""

    transferred: TrainedEnsemble
    scratch: TrainedEnsemble | None
    kept: KeptNetwork

    @property
    def bundled(self) -> TrainedEnsemble:
        """The one that the bundle holds."""
        return self.scratch if self.kept.fell_back and self.scratch is not None else self.transferred


def evaluate_held_out(
    run_data: RunData,
    config: FinetuneConfig,
    record: BundleRecord,
    networks: TrainedNetworks,
    out: Path,
    seconds: float,
    access: AccessCounts | None,
) -> Metrics:
    """Predict the test scans, measure what the transfer gained, and write the results.

    Every result is of the network that was kept; the transfer gain is always transferred minus scratch.
    """
    rows, out_of_fold = run_data.split.evaluated, not run_data.split.test
    test = run_data.prepared.subset(rows).without_margin(margin_voxels(run_data.preprocessing.shape))

    def predicted(network: TrainedEnsemble) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if out_of_fold:
            return network.validation, network.validation_novelty
        return predict(network.ensemble, test)

    def compared(network: TrainedEnsemble, found: NDArray[np.float64]) -> NDArray[np.float64]:
        return network.once if out_of_fold else found  # the network from scratch is not trained again and again

    probabilities, novelty = predicted(networks.transferred)
    gain, bundled = None, networks.bundled
    if networks.scratch is not None:
        of_scratch, novelty_of_scratch = predicted(networks.scratch)
        cohort = test.cohort
        transferred, from_scratch = (
            replace(
                LabelledPredictions.of(
                    cohort.truth,
                    compared(network, found),
                    cohort.patients,
                    cohort.labels,
                    network.balanced_point(cohort.labels),
                ),
                out_of_fold=out_of_fold,
            )
            for network, found in ((networks.transferred, probabilities), (networks.scratch, of_scratch))
        )
        gain = transfer_gain(transferred, from_scratch, config.seed)
        if bundled is networks.scratch:
            probabilities, novelty = of_scratch, novelty_of_scratch
    baselines, shortcuts = (_baselines_within if out_of_fold else _baselines)(run_data, config.seed)
    given = EvaluationInput(
        record,
        bundled.ensemble,
        test,
        probabilities,
        novelty,
        replace(
            _summary(run_data, config, record, bundled, networks.kept),
            origin=origin(run_data.prepared.cohort.path, run=out),
            seconds=seconds,
        ),
        baselines,
        KnownFigures(
            transfer_gain=gain,
            kept_network=networks.kept,
            generalisation_gap=bundled.gap,
            shortcuts=shortcuts,
            test_set_access=access,
            out_of_fold=out_of_fold,
            repeats=measure_repeats(run_data, config, bundled, out / REPEATS_FILE),
            altered_copies=run_data.altered_copies,
        ),
        _curves(bundled, config),
        _cross_fitted(run_data, config, record, bundled) if out_of_fold else (),
        [*map(run_data.split.fold_of.__getitem__, rows)] if out_of_fold else (),
    )
    return evaluate(
        given,
        out,
        config=config.evaluation,
        subgroups=config.subgroups,
        explain=config.explain,
        seed=config.seed,
    )


def _cross_fitted(
    run_data: RunData, config: FinetuneConfig, record: BundleRecord, bundled: TrainedEnsemble
) -> list[tuple[NDArray[np.intp], BundleRecord]]:
    """The bundle's record with the decisions that other patients would have led to."""
    return [
        (rows, record.model_copy(update={"operating_point": point, "prediction_sets": sets}))
        for rows, point, sets in cross_fitted_decisions(run_data, config, bundled)
    ]


def _baselines_within(run_data: RunData, seed: int) -> tuple[dict[str, NDArray[np.float64]], Shortcuts | None]:
    """As :func:`_baselines`, each patient by models of the others."""
    scans = run_data.prepared.subset(run_data.split.evaluated)
    cohort, facts = scans.cohort, [scan.acquisition for scan in scans.scans]
    within, shortcuts = baselines_within(
        scans.handcrafted,
        Development(facts, cohort.truth, cohort.patients, cohort.labels),
        len(run_data.split.repeats),
    )
    truth = run_data.prepared.cohort.truth[list(run_data.split.development)]
    return {PREVALENCE_BASELINE: prevalence_only(truth, len(cohort))} | within, shortcuts


def _baselines(run_data: RunData, seed: int) -> tuple[dict[str, NDArray[np.float64]], Shortcuts]:
    """Probabilities [test scan, class] of what a network must beat, fitted on the development scans."""
    test, development = list(run_data.split.test), list(run_data.split.development)
    features, truth, labels = (
        run_data.prepared.handcrafted,
        run_data.prepared.cohort.truth,
        run_data.prepared.cohort.labels,
    )
    facts, patients = [scan.acquisition for scan in run_data.prepared.scans], run_data.prepared.cohort.patients
    acquisition, shortcuts = fit_acquisition(
        Development([facts[i] for i in development], truth[development], [patients[i] for i in development], labels),
        [facts[i] for i in test],
        seed,
    )
    baselines = {
        PREVALENCE_BASELINE: prevalence_only(truth[development], len(test)),
        "handcrafted": fit_handcrafted(
            features[development], truth[development], features[test], seed, multilabel=labels.multilabel
        ),
    }
    return baselines | ({ACQUISITION_BASELINE: acquisition} if acquisition is not None else {}), shortcuts


def _curves(trained: TrainedEnsemble, config: FinetuneConfig) -> list[LearningCurve]:
    return [
        LearningCurve(
            name=f"fold {number + 1}",
            epochs=[int(row["epoch"]) for row in model.history],
            train_loss=[row["train_loss"] for row in model.history],
            val_loss=[row["val_loss"] for row in model.history],
            monitored=[row["smoothed"] for row in model.history],
            monitored_name=config.training.monitor.replace("_", " ") + ", smoothed",
            best_epoch=model.best_epoch,
        )
        for number, model in enumerate(trained.fold_models)
    ]


def _summary(
    run_data: RunData,
    config: FinetuneConfig,
    record: BundleRecord,
    bundled: TrainedEnsemble,
    kept_network: KeptNetwork,
) -> RunSummary:
    cohort, weights = run_data.prepared.cohort, record.backbone.weights
    return RunSummary(
        title=cohort_name(cohort.path),
        question=Sentence("Which of {names}?", names=", ".join(cohort.labels.names)),
        backbone=Sentence("{name}, pretrained: {weights}", name=record.backbone.name, weights=weights)
        if weights
        else Sentence("{name}, from scratch", name=record.backbone.name),
        backbone_licence=record.backbone.licence,
        cohort=cohort_counts(cohort.truth, cohort.patients, _parts(run_data), cohort.labels),
        split=_split_sentence(run_data),
        flow=participant_flow(
            cohort.patients,
            _parts(run_data),
            [scan.patient for scan in run_data.prepared.failed],
            run_data.split.n_fold_models,
        ),
        cross_validated=run_data.split.n_fold_models > 1,
        config=[
            ("Transfer", config.transfer.sentence),
            ("Network kept", kept_network.sentence),
            *_config_rows(run_data, config),
            ("Training and validation", bundled.gap.sentence),
        ],
        software=versions(),
        model_card=model_card_rows(record),
        language=config.report.language,
    )


def _parts(run_data: RunData) -> list[str]:
    """The part of each scan; with several folds every development scan is training for all fold models but one."""
    parts = ["train"] * len(run_data.prepared.scans)
    for index in run_data.split.test:
        parts[index] = "test"
    if run_data.split.n_fold_models == 1:
        for index in run_data.split.validation[0]:
            parts[index] = "val"
    return parts


def _split_sentence(run_data: RunData) -> str:
    n_folds = run_data.split.n_fold_models
    how = Sentence("one training and one validation part")
    if n_folds > 1:
        how = Sentence("{n} folds, one network each, averaged", n=n_folds)
    if run_data.split.further:
        return Sentence(
            "by patient, stratified by class, with no test part: {repeats} times {n} folds, one network each. A scan's "
            "probability is the mean of the {repeats} networks that had not trained on it; calibration and thresholds "
            "for it come from other patients. The bundle holds the networks of the first {n} folds",
            repeats=len(run_data.split.repeats),
            n=n_folds,
        )
    if not run_data.split.test:
        return Sentence(
            "by patient, stratified by class, with no test part: {how}. Each scan was predicted by the network that "
            "had not trained on it; calibration and thresholds for it come from other patients",
            how=how,
        )
    return Sentence(
        "by patient, stratified by class: a test part that nothing was chosen on; the rest in {how}", how=how
    )


def _config_rows(run_data: RunData, config: FinetuneConfig) -> list[tuple[str, str]]:
    training, repaired = config.training, sum(bool(scan.repair) for scan in run_data.prepared.scans)
    stopping = Sentence(
        "{figure}, patience {patience} of at most {epochs} epochs",
        figure=training.monitor.replace("_", " "),
        patience=training.patience,
        epochs=training.epochs,
    )
    augmentation = Sentence(
        "strength {strength:g}, mixup {mixup:g}",
        strength=config.augmentation.strength,
        mixup=config.augmentation.mixup,
    )
    return [
        ("Development scans", str(len(run_data.split.development))),
        ("Scans repaired", str(repaired)),
        ("Augmentation", augmentation),
        ("Class balance", training.balance),
        ("Early stopping", stopping),
        ("Seed", str(config.seed)),
    ]
