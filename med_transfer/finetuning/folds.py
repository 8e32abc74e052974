"""The fold models of an ensemble: trained one per fold, then calibrated together on their validation scans."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import Tensor

from med_transfer.backbones import Encoder, LoadedBackbone
from med_transfer.backbones.weights.matching import all_finite
from med_transfer.config import N_SEEDS
from med_transfer.finetuning.batches import FoldData, Truth, fold_data, no_evidence, prior_offset
from med_transfer.finetuning.callbacks.progress import TrainingProgress
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.feature_mapping import labelled_features
from med_transfer.finetuning.features import FeatureSource
from med_transfer.finetuning.fold_pretraining import (
    PRETRAINING_FOLDER,
    encoder_of,
    pretrain_encoders,
    pretrained_encoder,
    unlearned_encoder,
    with_published,
)
from med_transfer.finetuning.fold_training import TrainedNetwork, is_trained, train_network
from med_transfer.finetuning.generalisation_gap import measure_gap
from med_transfer.finetuning.lightning_module import diverged
from med_transfer.finetuning.provenance import weights_metadata
from med_transfer.metrics.records.metrics import GeneralisationGap
from med_transfer.model.calibration import Calibrated, calibrate
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble
from med_transfer.model.novelty import Novelty
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.labels import Labels
from med_transfer.progress import Progress, named, only_in_log, silent

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedEnsemble:
    """A trained ensemble and its out-of-fold predictions.

    Attributes:
        ensemble: in evaluation mode on the CPU, calibrated.
        fold_models: its members, each with its training history.
        validation: probabilities [scan, class] of each development scan by the fold model that did not train on it,
            calibrated on other patients, in the order of the folds' validation parts.
        validation_novelty: [scan], novelty of the same scans to the same fold models.
        gap: between training and validation.
        repeats: the ``validation`` of each repeat of the cross-validation; empty without repeats. With repeats,
            ``validation`` and ``validation_novelty`` are means over them, and the other attributes are of the first.
        without_evidence: for each repeat, the probabilities [scan, class] that the calibration of each scan of
            ``validation`` gives where the network favours no class; empty if they are those of the ensemble's.
    """

    ensemble: Ensemble
    fold_models: tuple[TrainedNetwork, ...]
    validation: NDArray[np.float64]
    validation_novelty: NDArray[np.float64]
    gap: GeneralisationGap
    repeats: tuple[NDArray[np.float64], ...] = ()
    without_evidence: tuple[NDArray[np.float64], ...] = ()

    def of_repeat(self, number: int) -> TrainedEnsemble:
        """The same with the validation probabilities of one repeat alone, counted from 0.

        The from-scratch baseline is trained in the first repeat only.
        """
        if not self.repeats:
            return self
        without = self.without_evidence[number : number + 1]
        return replace(self, validation=self.repeats[number], repeats=(), without_evidence=without)

    def balanced_point(self, labels: Labels) -> OperatingPoint:
        """The operating point that undoes class frequencies: what the network itself finds most probable."""
        calibrator = self.ensemble.calibrator
        return OperatingPoint.balanced(labels, calibrator.without_evidence(len(labels), multilabel=labels.multilabel))

    def balanced_points(self, labels: Labels) -> list[tuple[NDArray[np.intp], OperatingPoint]]:
        """As :meth:`balanced_point`, for the validation scans: positions, and the operating point that applies there.

        A scan's probability without evidence is, like its ``validation``, by calibrations fitted on other patients, and
        a mean over the repeats. That of the ensemble's own calibration, which was fitted on all scans, would move the
        calls away from what the networks found, and make them depend on the scan's own label.
        """
        if not self.without_evidence:
            return [(np.arange(len(self.validation)), self.balanced_point(labels))]
        held = np.mean(self.without_evidence, axis=0)
        distinct, of_scan = np.unique(held, axis=0, return_inverse=True)
        points = [OperatingPoint.balanced(labels, one.tolist()) for one in distinct]
        return [(np.flatnonzero(of_scan.ravel() == number), point) for number, point in enumerate(points)]

    def balanced_calls(self, labels: Labels) -> NDArray[np.bool_]:
        """Calls [scan, class] of the validation scans by :meth:`balanced_points`."""
        calls = np.zeros(self.validation.shape, dtype=bool)
        for rows, point in self.balanced_points(labels):
            calls[rows] = point.predictions(self.validation[rows], labels)
        return calls


@dataclass(frozen=True)
class _Fold:
    """A fold model and its outputs on its training and validation scans.

    ``training`` and ``validation`` are logits [scan, class] with the truth; ``validation_novelty`` is [scan].
    """

    trained: TrainedNetwork
    novelty: Novelty
    validation_novelty: NDArray[np.float64]
    training: tuple[NDArray[np.float32], Truth]
    validation: tuple[NDArray[np.float32], Truth]


@dataclass(frozen=True)
class Folds:
    """What the fold models of one repeat are trained from, and where their state is kept.

    Attributes:
        run_data: the scans and their split into folds.
        config: resolved; a fold model's seed is its seed plus the fold's number.
        source: each fold model starts with a copy of its encoder.
        folders: one for each fold's state; the features of frozen encoders lie beside them.
        metadata: for the headers of the fold models' weights files: what they have learned from, and their licence.
    """

    run_data: RunData
    config: FinetuneConfig
    source: LoadedBackbone
    folders: tuple[Path, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, run_data: RunData, config: FinetuneConfig, source: LoadedBackbone, folder: Path, repeat: int = 1
    ) -> Folds:
        """All folds of a repeat (counted from 1), each with its own seed; resolves the config."""
        config, n_folds = config.resolved(from_source=source.sha256 is not None), run_data.split.n_fold_models
        config = config.model_copy(update={"seed": (config.seed + (repeat - 1) * n_folds) % N_SEEDS})
        folders = tuple(folder / fold_folder(number, repeat) for number in range(n_folds))
        return cls(run_data, config, source, folders, weights_metadata(run_data, config, source))

    def data(self, number: int) -> FoldData:
        """The parts of one fold. Raises TooFewPatients, see :func:`fold_data`."""
        of, steered = self.run_data, self.config.transfer.strategy.trains
        return fold_data(of.prepared, of.split, number, of.unlabelled, steered=steered)

    def features(self, progress: Progress = silent) -> FeatureSource:
        """Features of plain scans, in a cache that all folds share."""
        return FeatureSource(self.folders[0].parent / "features", self.config, self.run_data.preprocessing, progress)


def train_fold(folds: Folds, number: int, progress_callback: Callback, progress: Progress = silent) -> TrainedNetwork:
    """Train one fold model from its own copy of the source's encoder, pretrained first if the config asks for it.

    Args:
        number: of the fold, from 0.
        progress_callback: reports every training step.
        progress: reports what precedes the first epoch.
    """
    config, seed = folds.config, (folds.config.seed + number) % N_SEEDS
    encoder = _encoder(folds, number, progress)
    pooled = config.backbone.stages_read(folds.source.spec.pooled_stages)
    n_classes = len(folds.run_data.prepared.cohort.labels)
    torch.manual_seed(seed)  # the head starts from here
    classifier = Classifier(encoder, n_classes, pooled, config.training.dropout, config.transfer.bottleneck)
    config.transfer.strategy.build(classifier)
    data, reader = folds.data(number), folds.features(progress)
    folder, metadata = folds.folders[number], folds.metadata
    return train_network(classifier, data, reader, folder, seed=seed, progress=progress_callback, metadata=metadata)


def _encoder(folds: Folds, number: int, progress: Progress) -> Encoder:
    """The encoder that a fold model starts from; for a finished one only its shape, since its weights are loaded."""
    config, source = folds.config, folds.source.encoder
    if not config.backbone.pretrain or is_trained(folds.folders[number]):
        return unlearned_encoder(source, config)
    first = encoder_of(number, config)
    encoder = pretrained_encoder(folds.run_data, config, first, folds.folders[first] / PRETRAINING_FOLDER, progress)
    return with_published(encoder, source, config)


def train_folds(
    run_data: RunData,
    config: FinetuneConfig,
    source: LoadedBackbone,
    folder: Path,
    progress: Progress,
    stage: str = "fine-tuning",
    *,
    repeat: int = 1,
) -> TrainedEnsemble:
    """Train one classifier per fold, all from one source, and calibrate them together.

    Args:
        folder: holds each fold's state.
        progress: reports progress under the name ``stage``.
        repeat: of the cross-validation, counted from 1.

    Raises:
        TrainingDiverged: the outputs or features of a trained network are not finite.
    """
    labels = run_data.prepared.cohort.labels
    stage = f"{stage}, repeat {repeat}" if repeat > 1 else stage
    folds = Folds.of(run_data, config, source, folder, repeat)
    models = _train_each(folds, progress, stage)
    calibrated = _calibrated(run_data, folds.config, models)
    ensemble = Ensemble(
        [model.trained.classifier for model in models],
        [model.novelty for model in models],
        multilabel=labels.multilabel,
        calibrator=calibrated.calibrator,
    ).eval()
    training, validation = [model.training for model in models], [model.validation for model in models]
    gap = measure_gap(training, validation, labels, folds.config.training.gap_limit)
    if repeat == 1:
        log.log(logging.WARNING if gap.exceeded else logging.INFO, "%s: %s", stage, gap.sentence)
    else:
        only_in_log(log, "%s: %s", stage, gap.sentence)
    novelty = np.concatenate([model.validation_novelty for model in models])
    networks, without = tuple(model.trained for model in models), (calibrated.without_evidence,)
    return TrainedEnsemble(ensemble, networks, calibrated.probabilities, novelty, gap, without_evidence=without)


def _train_each(folds: Folds, progress: Progress, stage: str) -> list[_Fold]:
    config, reader = folds.config, folds.features()
    read = reader.computed if config.transfer.strategy.trains else reader.cached
    if config.backbone.pretrain:
        wanted = {encoder_of(number, config) for number, folder in enumerate(folds.folders) if not is_trained(folder)}
        kept = {first: folds.folders[first] / PRETRAINING_FOLDER for first in sorted(wanted)}
        pretrain_encoders(folds.run_data, config, kept, named(progress, f"{stage}: {{stage}}"))
    models = []
    for number in range(len(folds.folders)):
        fold = f"{stage}, fold {number + 1} of {len(folds.folders)}"
        training_progress, stages = TrainingProgress(fold, progress), named(progress, f"{fold}: {{stage}}")
        trained, data = train_fold(folds, number, training_progress, stages), folds.data(number)
        features = labelled_features(trained.classifier, data, config, read)
        models.append(_finished(trained, data, features, _novelty(reader, data, config, features)))
        _require_finite(models[-1], fold)
    return models


def _require_finite(fold: _Fold, name: str) -> None:
    """Refuse a network whose numbers overflow, before a bundle is written that would be refused when it is loaded.

    Raises:
        TrainingDiverged: its outputs, or the distances that its novelty is a rank of, are not finite.
    """
    outputs = [fold.training[0], fold.validation[0], fold.validation_novelty]
    if not all(np.isfinite(output).all() for output in outputs):
        raise diverged(f"{name}: the network's outputs are not finite")
    if not all(map(all_finite, fold.novelty.state_dict().values())):
        raise diverged(f"{name}: the network's features are too large for its novelty to be finite")


def _finished(
    trained: TrainedNetwork,
    data: FoldData,
    features: tuple[Tensor, Tensor],
    novelty: tuple[Novelty, NDArray[np.float64]],
) -> _Fold:
    of_training, of_validation = (_logits(trained.classifier, each) for each in features)
    return _Fold(trained, *novelty, (of_training, data.training.truth), (of_validation, data.validation.truth))


def _calibrated(run_data: RunData, config: FinetuneConfig, folds: list[_Fold]) -> Calibrated:
    """Calibrate on the validation scans of all folds together."""
    cohort, split = run_data.prepared.cohort, run_data.split
    logits, truth = (np.concatenate(parts) for parts in zip(*(fold.validation for fold in folds), strict=True))
    patients = [cohort.patients[row] for row in split.validated]
    development, multilabel = cohort.truth[list(split.development)], cohort.labels.multilabel
    prior = prior_offset(development, config, multilabel=multilabel)
    nothing = no_evidence(development, config, multilabel=multilabel)
    return calibrate(logits, truth, patients, cohort.labels, config.calibration.method, prior, nothing)


def fold_folder(number: int, repeat: int) -> str:
    """Name of the folder with a fold's state; the cached features beside it are shared by all repeats."""
    return f"fold-{number}" if repeat == 1 else f"repeat-{repeat}-fold-{number}"


def _novelty(
    reader: FeatureSource, data: FoldData, config: FinetuneConfig, features: tuple[Tensor, Tensor]
) -> tuple[Novelty, NDArray[np.float64]]:
    """Novelty fitted on training and validation scans, and its values for the validation scans.

    With CORAL the input statistics are left out: the recoloured features match the unlabelled scans, but the input
    statistics are still those of the labelled ones.
    """
    mapping = config.transfer.mapping
    if mapping is not None and mapping.method == "coral":
        novelty = Novelty(features[0].shape[1]).fit(*features)
        return novelty, novelty(features[1]).double().numpy()
    inputs = reader.statistics(data.training.tensors), reader.statistics(data.validation.tensors)
    novelty = Novelty(features[0].shape[1], inputs[0].shape[1]).fit(*features, inputs)
    return novelty, novelty(features[1], inputs[1]).double().numpy()


def _logits(classifier: Classifier, features: Tensor) -> NDArray[np.float32]:
    return classifier.head(features).detach().numpy()
