"""All members of an ensemble: each fold trained, calibrated together on what each had not seen."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from med_transfer.backbones import LoadedBackbone
from med_transfer.classifier import Classifier
from med_transfer.cohorts import PreparedCohort, Split
from med_transfer.ensemble import Ensemble
from med_transfer.evaluation.calibration import fit_temperature
from med_transfer.finetuning.batches import validation_batches
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.listener import TrainingProgress
from med_transfer.finetuning.member import MemberData, TrainedMember, train_member
from med_transfer.finetuning.plan import Plan
from med_transfer.novelty import Novelty
from med_transfer.progress import Progress


@dataclass(frozen=True)
class TrainedEnsemble:
    """The ensemble, in evaluation mode on the CPU, each member's course, and how it was calibrated."""

    ensemble: Ensemble
    members: tuple[TrainedMember, ...]
    temperature: float
    n_calibration: int


def train_folds(
    plan: Plan, source: LoadedBackbone, pooled_stages: tuple[int, ...], config: FinetuneConfig, folder: Path,
    progress: Progress, stage: str,
) -> TrainedEnsemble:  # fmt: skip
    """Train one classifier a fold, each from its own copy of the source's encoder."""
    prepared, split, preprocessing, labels = plan.prepared, plan.split, plan.preprocessing, plan.prepared.cohort.labels
    trained, novelties, logits, truths = [], [], [], []
    for number in range(split.n_members):
        data = member_data(prepared, split, number)
        torch.manual_seed(config.seed + number)  # the head starts from here
        classifier = Classifier(copy.deepcopy(source.encoder), len(labels), pooled_stages, config.training.dropout)
        listener = TrainingProgress(f"{stage}, fold {number + 1} of {split.n_members}", progress)
        result = train_member(
            classifier, data, config, preprocessing, labels, folder / f"fold-{number}", seed=config.seed + number,
            progress=listener,
        )  # fmt: skip
        known = features(
            result.classifier, validation_batches(data.train_tensors, data.train_truth, config, preprocessing)
        )
        unseen = features(
            result.classifier, validation_batches(data.val_tensors, data.val_truth, config, preprocessing)
        )
        trained.append(result)
        novelties.append(Novelty(classifier.n_features).fit(known, unseen))
        logits.append(result.classifier.head(unseen).detach().numpy())
        truths.append(data.val_truth)
    truth = np.concatenate(truths)
    temperature = fit_temperature(np.concatenate(logits), truth, multilabel=labels.multilabel)
    classifiers = [member.classifier for member in trained]
    ensemble = Ensemble(classifiers, novelties, multilabel=labels.multilabel, temperature=temperature).eval()
    return TrainedEnsemble(ensemble, tuple(trained), temperature, len(truth))


def member_data(prepared: PreparedCohort, split: Split, number: int) -> MemberData:
    """The training and validation part of one member."""
    tensors, truth = prepared.tensors, prepared.cohort.truth
    training, validation = list(split.training(number)), list(split.validation[number])
    return MemberData(
        [tensors[i] for i in training], truth[training], [tensors[i] for i in validation], truth[validation]
    )


@torch.no_grad()
def features(classifier: Classifier, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Pooled features [scan, feature] of batches of images and truth, in their order, on the CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifier = classifier.to(device).eval()
    result = torch.cat([classifier.features(images.to(device)).float().cpu() for images, _ in batches])
    classifier.cpu()
    return result
