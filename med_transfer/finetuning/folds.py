"""All members of an ensemble: each fold trained, calibrated together on what each had not seen."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from med_transfer.backbones import LoadedBackbone
from med_transfer.calibration import calibrate
from med_transfer.classifier import Classifier
from med_transfer.ensemble import Ensemble
from med_transfer.evaluation.metrics import FitGap
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.feature_mapping import labelled_features
from med_transfer.finetuning.features import FeatureSource
from med_transfer.finetuning.fit_gap import fit_gap
from med_transfer.finetuning.listener import TrainingProgress
from med_transfer.finetuning.member import TrainedMember, train_member
from med_transfer.finetuning.member_data import member_data
from med_transfer.finetuning.plan import Plan
from med_transfer.novelty import Novelty
from med_transfer.progress import Progress
from med_transfer.transfer.strategies import find_strategy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedEnsemble:
    """The ensemble, in evaluation mode on the CPU, each member's course, and how it was calibrated.

    Attributes:
        validation: probabilities [scan, class] of each development scan by the member that did not train on it,
            calibrated on other patients, in the order of the members' validation parts.
        gap: between training and validation.
    """

    ensemble: Ensemble
    members: tuple[TrainedMember, ...]
    validation: NDArray[np.float64]
    gap: FitGap


def train_folds(
    plan: Plan, source: LoadedBackbone, pooled_stages: tuple[int, ...], config: FinetuneConfig, folder: Path,
    progress: Progress, stage: str,
) -> TrainedEnsemble:  # fmt: skip
    """Train one classifier a fold, each from its own copy of the source's encoder. ``config`` is a resolved one."""
    prepared, split, preprocessing, labels = plan.prepared, plan.split, plan.preprocessing, plan.prepared.cohort.labels
    strategy, reader = find_strategy(config.transfer), FeatureSource(folder / "features", config, preprocessing)
    read = reader.computed if strategy.trains else reader.cached
    trained, novelties, seen, unseen = [], [], [], []
    for number in range(split.n_members):
        data = member_data(prepared, split, number, plan.unlabelled)
        torch.manual_seed(config.seed + number)  # the head starts from here
        classifier = Classifier(
            copy.deepcopy(source.encoder), len(labels), pooled_stages, config.training.dropout,
            config.transfer.bottleneck,
        )  # fmt: skip
        strategy.build(classifier)
        listener = TrainingProgress(f"{stage}, fold {number + 1} of {split.n_members}", progress)
        result = train_member(
            classifier, data, config, preprocessing, labels, folder / f"fold-{number}", seed=config.seed + number,
            progress=listener,
        )  # fmt: skip
        known, held_out = labelled_features(result.classifier, data, config, read)
        trained.append(result)
        novelties.append(Novelty(classifier.n_features).fit(known, held_out))
        seen.append((_logits(result.classifier, known), data.train_truth))
        unseen.append((_logits(result.classifier, held_out), data.val_truth))
    logits, truth = (np.concatenate(parts) for parts in zip(*unseen, strict=True))
    patients = [prepared.cohort.patients[row] for row in chain.from_iterable(split.validation)]
    calibrated = calibrate(logits, truth, patients, labels, config.calibration.method)
    ensemble = Ensemble(
        [member.classifier for member in trained], novelties, multilabel=labels.multilabel,
        calibrator=calibrated.calibrator,
    ).eval()  # fmt: skip
    gap = fit_gap(seen, unseen, labels, config.training.gap_limit)
    log.log(logging.WARNING if gap.exceeded else logging.INFO, "%s: %s", stage, gap.sentence)
    return TrainedEnsemble(ensemble, tuple(trained), calibrated.probabilities, gap)


def _logits(classifier: Classifier, features: Tensor) -> NDArray[np.float32]:
    return classifier.head(features).detach().numpy()
