"""What is known of a candidate's training scans: from a file of source features, or from a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from med_transfer.backbones.instance_choice import AS_BUILT
from med_transfer.backbones.weights.source_features import (
    LowRankGaussian,
    SourceFeatures,
    read_source_features,
    source_features_path,
)
from med_transfer.backbones.weights.store import store_folder, stored_weights
from med_transfer.backbones.weights.weight_files import weights_in
from med_transfer.bundle import RECORD_FILE, WEIGHTS_FILE, read_record
from med_transfer.model.calibration import Calibrator
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.selection.candidates import Candidate
from med_transfer.selection.measuring import NOTHING_STORED
from med_transfer.selection.record import Stages

_BEHIND_BOTTLENECK = (
    "the bundle describes its training scans behind an autoencoder's bottleneck, not as the encoder gives them"
)
_RECOLOURED = (
    "the bundle describes its training scans as CORAL recoloured them for another site, not as the encoder gives them"
)
_POOLED_OTHERWISE = "slices or tiles of the source were cut or pooled otherwise than backbone says"
_SCAN_SELECTION_SETTINGS = {"modality", "max_gap_mm"}  # which scans are accepted, not how they are preprocessed


@dataclass(frozen=True)
class Layer:
    """A linear layer: weight [output, input] and bias [output]."""

    weight: NDArray[np.floating]
    bias: NDArray[np.floating]

    def __call__(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logits [scan, class] of features [scan, feature]."""
        return rows @ self.weight.astype(np.float64).T + self.bias


@dataclass(frozen=True)
class SourceHead:
    """The head of a source network, from features [scan, feature] to the source's classes.

    Attributes:
        stages: whose joined features it reads.
        linear: the last layer.
        calibrator: of its logits.
        bottleneck: of an autoencoder, with tanh, between the features and the linear layer; None without one.
    """

    stages: Stages
    linear: Layer
    calibrator: Calibrator
    bottleneck: Layer | None = None

    def probabilities(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Calibrated probabilities [scan, source class] of features [scan, feature]."""
        rows = np.asarray(features, np.float64)
        read = np.tanh(self.bottleneck(rows)) if self.bottleneck else rows
        return self.calibrator.probabilities(self.linear(read), multilabel=False)


def source_features(candidate: Candidate) -> SourceFeatures | None:
    """Source features: from a file beside the weights or in the user's weights folder, else from a bundle's novelty.

    None if neither exists or applies, see :func:`why_unknown`.

    Raises:
        BackboneError: there is a file, but it cannot be used.
    """
    if why_unknown(candidate) == _POOLED_OTHERWISE:
        return None
    for path in _source_feature_paths(candidate):
        if path.is_file():
            return read_source_features(path, candidate.sha256)
    return None if why_unknown(candidate) else _features_of_bundle(candidate)


def why_unknown(candidate: Candidate) -> str:
    """Why there are no source features from a bundle either; empty if there are."""
    folder = _bundle(candidate)
    there = read_record(folder).backbone if folder else None
    if candidate.spec.instance_choice != ((there.instance_pooling, there.tile_overlap) if there else AS_BUILT):
        return _POOLED_OTHERWISE
    if folder is None:
        return NOTHING_STORED
    transfer = read_record(folder).transfer
    mapping = transfer.mapping if transfer is not None else None
    return {"autoencoder": _BEHIND_BOTTLENECK, "coral": _RECOLOURED}.get(mapping or "", "")


def source_head(candidate: Candidate) -> SourceHead | None:
    """The head of a bundle's first fold model; None without a bundle, and for several findings per scan."""
    folder = _bundle(candidate)
    record = read_record(folder) if folder is not None else None
    if folder is None or record is None or record.multilabel or why_unknown(candidate) == _POOLED_OTHERWISE:
        return None
    tensors = load_file(folder / WEIGHTS_FILE)
    shortened = record.transfer is not None and record.transfer.bottleneck is not None
    bottleneck = _layer(tensors, "member0.mapping.0") if shortened else None
    return SourceHead(_pooled(candidate, folder), _layer(tensors, "member0.head"), record.calibration, bottleneck)


def other_input(candidate: Candidate, source: SourceFeatures | None, here: PreprocessingConfig) -> str:
    """How the source's scans were preprocessed, if that is known and differs from this cohort's; else empty.

    Args:
        candidate: the network.
        source: from :func:`source_features`; the crops that its file describes always differ from a cohort's inputs.
        here: preprocessing of the cohort's scans.
    """
    folder = _bundle(candidate)
    if source is not None and source.input:
        return source.input
    if folder is None:
        return ""
    there, now = (
        config.model_dump(mode="json", exclude=_SCAN_SELECTION_SETTINGS)
        for config in (read_record(folder).preprocessing, here)
    )
    return ", ".join(f"{name} {there[name]} (here {now[name]})" for name in there if there[name] != now[name])


def _layer(tensors: dict[str, NDArray], name: str) -> Layer:
    return Layer(tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def _source_feature_paths(candidate: Candidate) -> list[Path]:
    stored = stored_weights(candidate.spec) if candidate.weights is None else candidate.weights
    next_to_weights = [source_features_path(weights_in(stored))] if stored is not None else []
    by_name = [source_features_path(store_folder() / candidate.spec.name)] if candidate.weights is None else []
    return next_to_weights + by_name


def _bundle(candidate: Candidate) -> Path | None:
    folder = candidate.weights
    return folder if folder is not None and (folder / RECORD_FILE).is_file() else None


def _features_of_bundle(candidate: Candidate) -> SourceFeatures | None:
    """A Gaussian of the first fold model's training scans, from its novelty; its unused components are zero."""
    folder = _bundle(candidate)
    if folder is None:
        return None
    tensors = load_file(folder / WEIGHTS_FILE)
    mean, components, variances, residual = (
        tensors[f"novelty0.{part}"].astype(np.float64) for part in ("mean", "components", "variances", "residual")
    )
    used = (components**2).sum(axis=1) > 0.5
    gaussian = LowRankGaussian(mean, components[used], variances[used], float(residual))
    n_scans = read_record(folder).input_envelope.n_scans
    return SourceFeatures(candidate.sha256, n_scans, gaussians={_pooled(candidate, folder): gaussian})


def _pooled(candidate: Candidate, folder: Path) -> Stages:
    n_stages = len(candidate.spec.stage_channels)
    return tuple(stage % n_stages for stage in read_record(folder).backbone.pooled_stages)
