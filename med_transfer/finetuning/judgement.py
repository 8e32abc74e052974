"""After training: the test patients, met for the first time; predictions, metrics and report."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.bundle import BundleRecord, versions
from med_transfer.cohorts import Case
from med_transfer.evaluation.assessment import evaluate
from med_transfer.evaluation.baselines import fit_handcrafted, prevalence_only
from med_transfer.evaluation.metrics import Metrics
from med_transfer.evaluation.picture import three_planes
from med_transfer.evaluation.report import write_report
from med_transfer.evaluation.run_summary import LearningCurve, Miss, RunSummary, cohort_counts
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.folds import TrainedEnsemble, assess, middle
from med_transfer.finetuning.model_card import model_card_rows
from med_transfer.finetuning.plan import Plan
from med_transfer.prediction import Prediction
from med_transfer.results.table import PredictionTable
from med_transfer.transfer.gain import transfer_gain

N_MISSES = 8
_MOST_VALUES = 8  # a column with more different values is no subgroup


def judge(
    plan: Plan, config: FinetuneConfig, record: BundleRecord, trained: TrainedEnsemble,
    scratch: TrainedEnsemble | None, out: Path, seconds: float,
) -> Metrics:  # fmt: skip
    """Predict the test scans and write predictions.csv, metrics.json and report.html."""
    test = list(plan.split.test)
    cohort = plan.prepared.cohort.subset(test)
    tensors = [plan.prepared.tensors[i] for i in test]
    probabilities, novelty = assess(trained.ensemble, tensors, plan.preprocessing)
    gain = None
    if scratch is not None:
        without, _ = assess(scratch.ensemble, tensors, plan.preprocessing)
        gain = transfer_gain(cohort.truth, probabilities, without, cohort.patients, cohort.labels, config.seed)
    predictions = [
        record.answer(_unanswered(plan, index), probabilities[row], float(novelty[row])) for row, index in enumerate(test)
    ]
    _write_table(out / "predictions.csv", record, [*predictions, *plan.prepared.failed])
    metrics = evaluate(
        cohort.truth, probabilities, cohort.patients, cohort.labels,
        operating_point=record.operating_point, failed=plan.prepared.failed, baselines=_baselines(plan, config.seed),
        subgroups=subgroups(cohort.cases), transfer_gain=gain, seed=config.seed,
    )  # fmt: skip
    metrics.save(out / "metrics.json")
    write_report(
        out / "report.html", metrics=metrics, run=_summary(plan, config, record, seconds), truth=cohort.truth,
        probabilities=probabilities, curves=_curves(trained, config), misses=_misses(plan, predictions),
    )  # fmt: skip
    return metrics


def _unanswered(plan: Plan, index: int) -> Prediction:
    case, scan = plan.prepared.cohort.cases[index], plan.prepared.scans[index]
    return Prediction(case.scan, case.patient, scan.study_uid, scan.series_uid)


def _write_table(path: Path, record: BundleRecord, predictions: list[Prediction]) -> None:
    path.unlink(missing_ok=True)  # a resumed run judges anew
    with PredictionTable(path, record.labels) as table:
        for prediction in predictions:
            table.append(prediction)
        table.finish()


def _baselines(plan: Plan, seed: int) -> dict[str, NDArray[np.float64]]:
    """Probabilities [test scan, class] of what a network must beat, fitted on the development scans."""
    test, development = list(plan.split.test), list(plan.split.development)
    features, truth, labels = plan.prepared.handcrafted, plan.prepared.cohort.truth, plan.prepared.cohort.labels
    return {
        "prevalence": prevalence_only(truth[development], len(test)),
        "handcrafted": fit_handcrafted(
            features[development], truth[development], features[test], seed, multilabel=labels.multilabel
        ),
    }


def subgroups(cases: tuple[Case, ...]) -> dict[str, list[str]]:
    """Columns of the table that divide the cases into a few groups, with each case's value."""
    columns = sorted({name for case in cases for name in case.columns})
    values = {name: [case.columns.get(name, "") for case in cases] for name in columns}
    return {name: found for name, found in values.items() if 1 < len(set(found)) <= _MOST_VALUES}


def _curves(trained: TrainedEnsemble, config: FinetuneConfig) -> list[LearningCurve]:
    return [
        LearningCurve(
            name=f"fold {number + 1}",
            epochs=[int(row["epoch"]) for row in member.history],
            train_loss=[row["train_loss"] for row in member.history],
            val_loss=[row["val_loss"] for row in member.history],
            monitored=[row["smoothed"] for row in member.history],
            monitored_name=config.training.monitor.replace("_", " ") + ", smoothed",
            best_epoch=member.best_epoch,
        )
        for number, member in enumerate(trained.members)
    ]


def _misses(plan: Plan, predictions: list[Prediction]) -> list[Miss]:
    """The wrong calls that were surest of themselves, with what the network saw."""
    cases = [plan.prepared.cohort.cases[i] for i in plan.split.test]
    wrong = [row for row, case in enumerate(cases) if predictions[row].predicted != _truth(case)]
    surest = sorted(wrong, key=lambda row: -max(predictions[row].probabilities.values()))[:N_MISSES]
    return [_miss(plan, cases[row], predictions[row], plan.split.test[row]) for row in surest]


def _miss(plan: Plan, case: Case, prediction: Prediction, index: int) -> Miss:
    image = middle([plan.prepared.tensors[index]], plan.preprocessing)[0][0].numpy()
    return Miss(
        scan=case.scan,
        truth=_truth(case),
        predicted=prediction.predicted,
        probability=max(prediction.probabilities.values()),
        picture=three_planes(image, plan.preprocessing.orientation, plan.preprocessing.spacing_mm),
    )


def _truth(case: Case) -> str:
    return case.label if isinstance(case.label, str) else ";".join(sorted(case.label or ()))


def _summary(plan: Plan, config: FinetuneConfig, record: BundleRecord, seconds: float) -> RunSummary:
    cohort, split = plan.prepared.cohort, plan.split
    part = ["train"] * len(cohort.cases)
    for index in split.test:
        part[index] = "test"
    if split.n_members == 1:
        for index in split.validation[0]:
            part[index] = "val"
    repairs = Counter(scan.repair for scan in plan.prepared.scans if scan.repair)
    return RunSummary(
        title=cohort.path.parent.name if cohort.path else "cohort",
        question=f"Which of {', '.join(cohort.labels.names)}?",
        backbone=record.backbone.name + (f" from {record.backbone.weights}" if record.backbone.weights else " from scratch"),
        backbone_licence=record.backbone.licence,
        cohort=cohort_counts(cohort.truth, cohort.patients, part, cohort.labels),
        split=_split_sentence(plan),
        config=_config_rows(config, trained_scans=len(split.development), repairs=sum(repairs.values())),
        seconds=seconds,
        software=versions(),
        model_card=model_card_rows(record),
    )


def _split_sentence(plan: Plan) -> str:
    members = plan.split.n_members
    how = f"{members} folds, one network each, averaged" if members > 1 else "one training and one validation part"
    return f"By patient, stratified by class: a test part that nothing was chosen on; the rest in {how}."


def _config_rows(config: FinetuneConfig, *, trained_scans: int, repairs: int) -> list[tuple[str, str]]:
    training = config.training
    return [
        ("Development scans", str(trained_scans)),
        ("Scans repaired", str(repairs)),
        ("Augmentation strength", f"{config.augmentation.strength:g}, mixup {config.augmentation.mixup:g}"),
        ("Class balance", training.balance),
        ("Early stopping", f"{training.monitor.replace('_', ' ')}, patience {training.patience} of {training.epochs} epochs"),
        ("Seed", str(config.seed)),
    ]
