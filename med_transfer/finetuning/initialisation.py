"""Initialisation of a fold model: adapted statistics, a probe's head, penalties, the strategy's modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from med_transfer.backbones import Encoder
from med_transfer.backbones.networks.instances import InstanceEncoder
from med_transfer.errors import ConfigError
from med_transfer.finetuning.attention_probe import AttentionTraining, Bags, fit_attention
from med_transfer.finetuning.batch_norm import adapt_statistics, check_batch_norm
from med_transfer.finetuning.batches import FoldData, plain_images
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.early_stopping import monitored_figure
from med_transfer.finetuning.feature_mapping import labelled_features, set_bottleneck
from med_transfer.finetuning.features import FeatureSource, tensor_hash
from med_transfer.finetuning.regularisation import Penalty, find_penalties
from med_transfer.finetuning.regularisation.delta import channel_attention
from med_transfer.finetuning.strategies.by_stage import AttentionProbe
from med_transfer.model.classifier import Classifier, stages_from_front
from med_transfer.model.features import best_device
from med_transfer.model.linear_head import LinearHead, fit_probe, mean_head
from med_transfer.model.losses import classification_loss
from med_transfer.predictions.labels import Labels
from med_transfer.preprocessing import PreprocessingConfig

ADAPTATION_BATCH_SIZE = 8  # scans: statistics must not depend on the training's batch size


def check_transfer(config: FinetuneConfig, encoder: Encoder) -> None:
    """Refuse settings that this backbone does not support, before anything is read or written.

    Raises:
        ConfigError: the backbone lacks the stages, feature maps or BatchNorm, or the unlabelled scans do not exist.
        BackboneError: adapters cannot be added.
    """
    config.transfer.strategy.check(encoder)
    if config.backbone.pooled_stages is not None:
        stages_from_front(config.backbone.pooled_stages, len(encoder.stage_channels), config.backbone.name)
    if config.transfer.batch_norm == "bn_adapt":
        check_batch_norm(encoder)
    unlabelled = config.transfer.unlabelled
    if unlabelled and not unlabelled.exists():
        part = "align" if config.transfer.align else "mapping"
        raise ConfigError(
            f"{unlabelled} does not exist", where=f"transfer.{part}.unlabelled", expected="a cohort table or a folder"
        )


@dataclass(frozen=True)
class Initialisation:
    """Penalties and probe; ``row`` describes the probe like an epoch of training (None without a probe)."""

    penalties: list[Penalty]
    probe: LinearHead | None = None
    row: dict[str, float] | None = None


def initialise(classifier: Classifier, data: FoldData, reader: FeatureSource) -> Initialisation:
    """Prepare the classifier for training, in place; deterministic for the same input."""
    config, transfer, strategy = reader.config, reader.config.transfer, reader.config.transfer.strategy
    if transfer.batch_norm == "bn_adapt":
        _adapt(classifier, data, config, reader.preprocessing)
    set_bottleneck(classifier, data, reader)
    probe = row = attention = None
    attends = "delta" in transfer.regularise and transfer.delta.attention
    if strategy.head_from_probe or attends:
        train_features, val_features = labelled_features(classifier, data, config, reader.cached)
        probe = _probe(train_features, _features_per_head(classifier, config), data, config)
        train, val = (torch.from_numpy(probe.logits(part.numpy())) for part in (train_features, val_features))
        row = {**_history_row(train, val, data, config), "inverse_strength": probe.inverse_strength}
        attention = _attention(classifier, probe, train_features, data.training.truth, data.labels) if attends else None
    if strategy.head_from_probe and probe is not None:
        set_head(classifier, probe)
    if isinstance(strategy, AttentionProbe):
        row = _learn_attention(strategy.steps, classifier, data, reader)
    penalties = find_penalties(transfer, classifier.encoder, attention)
    strategy.prepare(classifier)
    return Initialisation(penalties, probe, row)


def _learn_attention(steps: int, classifier: Classifier, data: FoldData, reader: FeatureSource) -> dict[str, float]:
    """Fit attention and head, copy them into the classifier, and describe them like an epoch of training."""
    config = reader.config
    bags, balanced = Bags.of(*reader.instances(classifier, data.training.tensors)), config.training.balance != "none"
    settings = AttentionTraining(steps, config.training.dropout, data.labels.multilabel, balanced, config.seed)
    fitted = fit_attention(bags, data.training.truth, data.training.patients, settings)
    cast(InstanceEncoder, classifier.encoder).attention = fitted.head.attention
    classifier.head.load_state_dict(fitted.head.linear.state_dict())
    parts = (reader.cached(classifier, tensors) for tensors in (data.training.tensors, data.validation.tensors))
    with torch.no_grad():
        train, val = map(classifier.head, parts)
        return {**_history_row(train, val, data, config), "steps": float(fitted.n_steps)}


@torch.no_grad()
def set_head(classifier: Classifier, head: LinearHead) -> None:
    """Copy a linear head into the classifier's."""
    classifier.head.weight.copy_(torch.from_numpy(head.weight))
    classifier.head.bias.copy_(torch.from_numpy(head.bias))


def _adapt(classifier: Classifier, data: FoldData, config: FinetuneConfig, preprocessing: PreprocessingConfig) -> None:
    """Adapt BatchNorm in the order of the scans' hashes: in effect shuffled, and independent of the order of rows."""
    device, tensors = best_device(), sorted(data.training.tensors, key=tensor_hash)
    images = plain_images(tensors, config, preprocessing, batch_size=ADAPTATION_BATCH_SIZE)
    classifier.to(device)
    adapt_statistics(classifier.encoder, (batch.to(device) for batch in images))
    classifier.cpu()


def _features_per_head(classifier: Classifier, config: FinetuneConfig) -> list[int]:
    """How many features each head reads: one head for all, or one each for published features and answers."""
    if config.backbone.has_published:
        return classifier.encoder.pooled_channels(classifier.pooled_stages)
    return [classifier.n_features]


def _probe(train_features: Tensor, parts: Sequence[int], data: FoldData, config: FinetuneConfig) -> LinearHead:
    heads = [
        fit_probe(
            part.numpy(),
            data.training.truth,
            data.training.patients,
            config.transfer.probe.inverse_strengths,
            multilabel=data.labels.multilabel,
            balanced=config.training.balance != "none",
        )
        for part in train_features.split(parts, dim=1)
    ]
    return mean_head(heads)


def _history_row(train: Tensor, val: Tensor, data: FoldData, config: FinetuneConfig) -> dict[str, float]:
    """A row like that of a training epoch, from logits [scan, class] of training and validation scans."""
    train_loss, _ = _loss_and_figure(train, data.training.truth, config, data.labels)
    val_loss, figure = _loss_and_figure(val, data.validation.truth, config, data.labels)
    return {"epoch": 0.0, "train_loss": train_loss, "val_loss": val_loss, "figure": figure, "smoothed": figure}


def _loss_and_figure(
    logits: Tensor, truth: NDArray[np.bool_], config: FinetuneConfig, labels: Labels
) -> tuple[float, float]:
    """Loss and monitored figure of logits [scan, class]."""
    targets = torch.from_numpy(truth)
    loss = float(classification_loss(logits, targets.to(logits), multilabel=labels.multilabel))
    return loss, monitored_figure(config.training.monitor, logits, targets, loss, labels)


def _attention(
    classifier: Classifier, probe: LinearHead, train_features: Tensor, truth: NDArray[np.bool_], labels: Labels
) -> dict[int, Tensor]:
    """DELTA's attention [channel] for each pooled stage, summing to one per stage; other stages have no entry."""
    weight, bias = (torch.from_numpy(part).float() for part in (probe.weight, probe.bias))
    joined = channel_attention(train_features, weight, bias, torch.from_numpy(truth), multilabel=labels.multilabel)
    stages = classifier.pooled_stages
    parts = joined.split(classifier.encoder.pooled_channels(stages))
    widths = [classifier.encoder.stage_channels[stage] for stage in stages]
    # a channel that is pooled twice, by mean and by maximum, gets the sum of both attentions
    summed = [part.view(-1, width).sum(0) for part, width in zip(parts, widths, strict=True)]
    return {stage: part / part.sum() for stage, part in zip(stages, summed, strict=True)}
