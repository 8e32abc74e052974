"""Mapping of a fold model's frozen features: by an autoencoder's bottleneck inside the network, or by CORAL."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from med_transfer.backbones.weights.matching import all_finite
from med_transfer.finetuning.batches import FoldData, Tensors
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.features import FeatureSource
from med_transfer.finetuning.lightning_module import diverged
from med_transfer.finetuning.mapping import fit_autoencoder, fit_coral
from med_transfer.model.classifier import Classifier

log = logging.getLogger(__name__)


def set_bottleneck(classifier: Classifier, data: FoldData, reader: FeatureSource) -> None:
    """Fit the autoencoder on training and unlabelled scans and copy its first layer into the classifier, in place.

    Does nothing if none is configured. It is not fitted on validation scans; their explained variance is logged.

    Raises:
        TrainingDiverged: the autoencoder's weights are not finite.
    """
    seed, mapping = reader.config.seed, reader.config.transfer.mapping
    if mapping is None or mapping.method != "autoencoder":
        return
    parts = [part.tensors for part in (data.training, data.unlabelled) if part]
    features = torch.cat([reader.by_frozen_encoder(classifier, part) for part in parts])
    fitted = fit_autoencoder(features, mapping.bottleneck, noise=mapping.noise, steps=mapping.steps, seed=seed)
    if not all(map(all_finite, fitted.encoder.parameters())):
        raise diverged("the weights of the autoencoder are not finite")
    layer = classifier.mapping[0]  # type: ignore[index]
    layer.load_state_dict(fitted.encoder.state_dict())
    kept_variance = fitted.kept_variance(reader.by_frozen_encoder(classifier, data.validation.tensors))
    log.info(
        "autoencoder: its bottleneck keeps %.0f %% of the variance of the validation scans' features",
        100 * kept_variance,
    )


def labelled_features(
    classifier: Classifier, data: FoldData, config: FinetuneConfig, read: Callable[[Classifier, Tensors], Tensor]
) -> tuple[Tensor, Tensor]:
    """Features [scan, feature] of training and validation scans, as the head is trained and evaluated on them.

    With CORAL both are recoloured to match the unlabelled scans, which the head is made for: validation scans come from
    the site that gave the labels, as training scans do.
    """
    train_features, val_features = (read(classifier, part) for part in (data.training.tensors, data.validation.tensors))
    mapping = config.transfer.mapping
    if mapping is None or mapping.method != "coral":
        return train_features, val_features
    recoloured = fit_coral(train_features.numpy(), read(classifier, data.unlabelled.tensors).numpy(), mapping.ridge)
    parts = (train_features, val_features)
    train_features, val_features = (torch.from_numpy(recoloured(part.numpy())).to(part) for part in parts)
    return train_features, val_features
