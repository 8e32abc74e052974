"""A run's summary for its report: cohort, source, split, training, and learning curves."""

from __future__ import annotations

from med_transfer.bundle import BundleRecord, versions
from med_transfer.bundle.model_card import model_card_rows
from med_transfer.errors.sentence import Sentence
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.early_stopping import FIGURES
from med_transfer.finetuning.folds import TrainedEnsemble
from med_transfer.metrics.records.metrics import KeptNetwork
from med_transfer.report.run_summary import LearningCurve, RunSummary, cohort_counts, cohort_name, participant_flow


def learning_curves(trained: TrainedEnsemble, config: FinetuneConfig) -> list[LearningCurve]:
    """Losses and the monitored figure of each fold model, by epoch."""
    return [
        LearningCurve(
            name=Sentence("fold {number}", number=number + 1),
            epochs=[int(row["epoch"]) for row in model.history],
            train_loss=[row["train_loss"] for row in model.history],
            val_loss=[row["val_loss"] for row in model.history],
            monitored=[row["smoothed"] for row in model.history],
            monitored_name=Sentence("{figure}, smoothed", figure=FIGURES[config.training.monitor]),
            best_epoch=model.best_epoch,
        )
        for number, model in enumerate(trained.fold_models)
    ]


def summary_of(
    run_data: RunData,
    config: FinetuneConfig,
    record: BundleRecord,
    bundled: TrainedEnsemble,
    kept_network: KeptNetwork,
) -> RunSummary:
    """Cohort, network, split and settings of a run; its location and duration are left to the caller."""
    cohort = run_data.prepared.cohort
    return RunSummary(
        title=cohort_name(cohort.path),
        question=Sentence("Which of {names}?", names=", ".join(cohort.labels.names)),
        backbone=record.backbone.sentence,
        backbone_licence=record.backbone.licence,
        cohort=cohort_counts(cohort.truth, cohort.patients, _parts(run_data), cohort.labels),
        split=_split_sentence(run_data, bundled),
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
            *_config_rows(run_data, config.from_scratch_config() if kept_network.fell_back else config),
            ("Training and validation", bundled.gap.sentence),
        ],
        software=versions(),
        model_card=model_card_rows(record),
        language=config.report.language,
    )


def _parts(run_data: RunData) -> list[str]:
    """The part of each scan: train, val or test; with several folds every development scan counts as train."""
    parts = ["train"] * len(run_data.prepared.scans)
    for index in run_data.split.test:
        parts[index] = "test"
    if run_data.split.n_fold_models == 1:
        for index in run_data.split.validation[0]:
            parts[index] = "val"
    return parts


def _split_sentence(run_data: RunData, bundled: TrainedEnsemble) -> str:
    """The split in words; a from-scratch baseline that was kept is of the first repeat alone."""
    n_folds = run_data.split.n_fold_models
    how = Sentence("one training and one validation part")
    if n_folds > 1:
        how = Sentence("{n} folds, one network each, averaged", n=n_folds)
    if bundled.repeats:
        return Sentence(
            "by patient, stratified by class, with no test part: {repeats} times {n} folds, one network each. A scan's "
            "probability is the mean of the {repeats} networks that had not trained on it; calibration and thresholds "
            "for it come from other patients. The bundle holds the networks of the first {n} folds",
            repeats=len(bundled.repeats),
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
    repaired = sum(bool(scan.repair) for scan in run_data.prepared.scans)
    return [
        ("Development scans", str(len(run_data.split.development))),
        ("Scans repaired", str(repaired)),
        *(_training_rows(config) if config.transfer.strategy.trains else _fitting_rows(config)),
        ("Seed", str(config.seed)),
    ]


def _fitting_rows(config: FinetuneConfig) -> list[tuple[str, str]]:
    """Rows for a head on frozen features, which has no augmentation and no early stopping."""
    return [
        ("Augmentation", Sentence("none, as features of plain scans are frozen")),
        ("Class balance", "none" if config.training.balance == "none" else "weights"),
        ("Early stopping", Sentence("none, as only a head was fitted")),
    ]


def _training_rows(config: FinetuneConfig) -> list[tuple[str, str]]:
    training = config.training
    stopping = Sentence(
        "{figure}, patience {patience} of at most {epochs} epochs",
        figure=FIGURES[training.monitor],
        patience=training.patience,
        epochs=training.epochs,
    )
    augmentation = Sentence(
        "strength {strength:g}, mixup {mixup:g}",
        strength=config.augmentation.strength,
        mixup=config.augmentation.mixup,
    )
    return [("Augmentation", augmentation), ("Class balance", training.balance), ("Early stopping", stopping)]
