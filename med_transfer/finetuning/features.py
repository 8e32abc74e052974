"""Pooled features of plain, unaugmented scans; those of frozen networks are kept on disk and computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from med_transfer.atomic import write_bytes
from med_transfer.backbones import Encoder
from med_transfer.finetuning.batches import Tensors, validation_batches
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.model.classifier import Classifier
from med_transfer.preprocessing import PreprocessingConfig


def best_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def features(classifier: Classifier, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The encoder's pooled features [scan, feature] of batches of images and truth, in their order, on the CPU."""
    device = best_device()
    classifier = classifier.to(device).eval()
    result = torch.cat([classifier.source_features(images.to(device)).float().cpu() for images, _ in batches])
    classifier.cpu()
    return result


class FeatureSource:
    """Features of prepared scans as a classifier's head reads them.

    Args:
        folder: of the cache: one file for each state of an encoder, one row for each scan, both named by content, so
            that folds with the same frozen encoder share them, and a changed encoder or scan is never mistaken.
    """

    def __init__(self, folder: Path, config: FinetuneConfig, preprocessing: PreprocessingConfig) -> None:
        self.folder, self.config, self.preprocessing = folder, config, preprocessing

    def computed(self, classifier: Classifier, tensors: Tensors) -> Tensor:
        """[scan, feature], computed now."""
        return _mapped(classifier, self._by_encoder(classifier, tensors))

    def cached(self, classifier: Classifier, tensors: Tensors) -> Tensor:
        """[scan, feature], computed for those scans only that this encoder has not seen before."""
        return _mapped(classifier, self.by_frozen_encoder(classifier, tensors))

    def _by_encoder(self, classifier: Classifier, tensors: Tensors) -> Tensor:
        no_truth = np.zeros((len(tensors), 1), dtype=bool)
        return features(classifier, validation_batches(tensors, no_truth, self.config, self.preprocessing))

    def by_frozen_encoder(self, classifier: Classifier, tensors: Tensors) -> Tensor:
        """As :meth:`cached`, before any bottleneck."""
        path = self.folder / f"{self._name(classifier)}.safetensors"
        known, names = _read(path), [tensor_hash(tensor) for tensor in tensors]
        new = {name: tensor for name, tensor in zip(names, tensors, strict=True) if name not in known}
        if new:
            rows = self._by_encoder(classifier, list(new.values()))
            known |= dict(zip(new, rows.clone().unbind(), strict=True))
            self.folder.mkdir(parents=True, exist_ok=True)
            write_bytes(path, save({name: row.clone() for name, row in known.items()}))
        return torch.stack([known[name] for name in names])

    def _name(self, classifier: Classifier) -> str:
        shape = f"{self.preprocessing.shape}-{classifier.pooled_stages}"
        return hashlib.sha256((encoder_hash(classifier.encoder) + shape).encode()).hexdigest()[:16]


@torch.no_grad()
def _mapped(classifier: Classifier, rows: Tensor) -> Tensor:
    return classifier.mapping(rows)


def encoder_hash(encoder: Encoder) -> str:
    """SHA-256 of all weights and statistics."""
    digest = hashlib.sha256()
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def tensor_hash(tensor: np.ndarray) -> str:
    """Of a prepared scan: its content and shape."""
    return hashlib.sha256(np.ascontiguousarray(tensor).tobytes() + str(tensor.shape).encode()).hexdigest()[:32]


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path) if path.exists() else {}
    except SafetensorError:  # damaged: computed again
        return {}
