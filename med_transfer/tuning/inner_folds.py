"""One config on the development folds. The test scans are taken out before anything can see them."""

from __future__ import annotations

import copy
import hashlib
import math
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback

from med_transfer.backbones import LoadedBackbone
from med_transfer.classifier import Classifier
from med_transfer.cohorts import Split
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.member import TrainedMember, train_member
from med_transfer.finetuning.member_data import member_data
from med_transfer.finetuning.plan import Plan
from med_transfer.transfer.strategies import find_strategy


def without_test_scans(plan: Plan) -> Plan:
    """The same folds of a cohort that has no test scans: neither their voxels nor their labels are in it."""
    development = plan.split.development
    place = {case: position for position, case in enumerate(development)}

    def moved(cases: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(place[case] for case in cases)

    split = Split((), tuple(map(moved, plan.split.validation)), moved(plan.split.always_training))
    return replace(plan, prepared=replace(plan.prepared.subset(development), failed=()), split=split)


def train_inner_fold(
    plan: Plan, source: LoadedBackbone, config: FinetuneConfig, fold: int, folder: Path, listener: Callback
) -> TrainedMember:
    """The fold's member just as ``finetune`` trains it; ``folder`` keeps its state, and beside it frozen features.

    Args:
        config: resolved.
    """
    pooled = config.backbone.pooled_stages or source.spec.pooled_stages
    labels, seed = plan.prepared.cohort.labels, config.seed + fold
    torch.manual_seed(seed)  # the head starts from here
    classifier = Classifier(copy.deepcopy(source.encoder), len(labels), pooled, config.training.dropout)
    find_strategy(config.transfer).build(classifier)
    data = member_data(plan.prepared, plan.split, fold)
    return train_member(
        classifier, data, config, plan.preprocessing, labels, folder, seed=seed, progress=listener
    )  # fmt: skip


def kept_figure(member: TrainedMember) -> float:
    """The smoothed validation figure at the epoch whose weights were kept; NaN where the training diverged."""
    row = next((row for row in member.history if int(row["epoch"]) == member.best_epoch), None)
    return row["smoothed"] if row and math.isfinite(row["val_loss"]) else math.nan


def config_name(config: FinetuneConfig) -> str:
    """The same for the same config, so that an interrupted trial finds its state."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]
