"""Features of source scans, stored beside the weights, to measure how far a target cohort lies from the source.

A ``.safetensors`` file with, for each layer, either the features of some source scans or a Gaussian fitted to them::

    tensors    "2/features"  [scan, feature]                    stage 2 (counted from 0, shallow to deep), pooled
               "2+3/mean"    [feature]                          stages 2 and 3 pooled and concatenated
               "2+3/components" [component, feature], "2+3/variances" [component], "2+3/residual" []
    metadata   format, weights_sha256, n_scans, and input if known

Tables with equally many rows are of the same scans in the same order, so that stages can be concatenated. The file has
the path that :func:`source_features_path` returns. Features of patients are patient data: a subset of scans is enough,
and a Gaussian reveals no single scan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from med_transfer.backbones.weights.weight_files import safetensors_path
from med_transfer.errors import BackboneError

SUFFIX = ".source.safetensors"
_FORMAT = "med_transfer source features 1"
_GAUSSIAN = ("mean", "components", "variances", "residual")

Layer = tuple[int, ...]


@dataclass(frozen=True)
class LowRankGaussian:
    """Gaussian with covariance C' diag(variances) C + residual (I - C' C), where C are the components.

    Attributes:
        mean: [feature].
        components: [component, feature], with orthonormal rows.
        variances: [component].
        residual: variance in every other direction.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    variances: NDArray[np.float64]
    residual: float

    @property
    def total_variance(self) -> float:
        """Trace of the covariance."""
        others = len(self.mean) - len(self.components)
        return float(self.variances.sum()) + self.residual * others


@dataclass(frozen=True)
class SourceFeatures:
    """Spatial means of the stages' feature maps over the source scans, in evaluation mode.

    Attributes:
        weights_sha256: hash of the weights file that computed them.
        n_scans: number of scans described.
        features: [scan, feature] by layer (stages counted from 0).
        gaussians: Gaussian by layer, where the features themselves are not stored.
        input: how the scans were preprocessed, in words; empty if unknown.
    """

    weights_sha256: str
    n_scans: int
    features: Mapping[Layer, NDArray[np.floating]] = field(default_factory=dict)
    gaussians: Mapping[Layer, LowRankGaussian] = field(default_factory=dict)
    input: str = ""

    def table(self, layer: Layer) -> NDArray[np.floating] | None:
        """Return features [scan, feature] of a layer, if needed concatenated from its stages; None if not stored."""
        if layer in self.features:
            return self.features[layer]
        stages = [self.features.get((stage,)) for stage in layer]
        tables = [table for table in stages if table is not None]
        if len(tables) < len(layer) or len({len(table) for table in tables}) > 1:
            return None
        return np.concatenate(tables, axis=1)


def source_features_path(weights: Path) -> Path:
    """Return the path of a weights file's source features: beside it, as ``NAME.source.safetensors``."""
    return weights.with_name(weights.name.removesuffix(".safetensors") + SUFFIX)


def write_source_features(path: Path, source: SourceFeatures) -> None:
    """Write the file atomically. Raises OutputError."""
    tensors = {f"{_name(layer)}/features": np.asarray(table, np.float32) for layer, table in source.features.items()}
    for layer, gaussian in source.gaussians.items():
        for part in _GAUSSIAN:
            tensors[f"{_name(layer)}/{part}"] = np.asarray(getattr(gaussian, part), np.float32)
    metadata = {"format": _FORMAT, "weights_sha256": source.weights_sha256, "n_scans": str(source.n_scans)}
    metadata |= {"input": source.input} if source.input else {}
    contiguous = {name: np.ascontiguousarray(tensor).reshape(tensor.shape) for name, tensor in tensors.items()}
    with safetensors_path(path) as temporary:
        save_file(contiguous, temporary, metadata=metadata)


def read_source_features(path: Path, weights_sha256: str) -> SourceFeatures:
    """Read the file.

    Args:
        path: see :func:`source_features_path`.
        weights_sha256: hash of the weights in use.

    Raises:
        BackboneError: the file cannot be read, is of another kind, incomplete, or was made with other weights.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (OSError, SafetensorError) as error:
        raise BackboneError(f"cannot be read ({error})", where=path, expected="a file of source features") from error
    if metadata.get("format") != _FORMAT:
        raise BackboneError("not a file of source features", where=path, expected=f"format {_FORMAT!r}")
    if metadata.get("weights_sha256") != weights_sha256:
        raise BackboneError(
            f"made with other weights (SHA-256 {metadata.get('weights_sha256', '')[:12]}...)",
            where=path,
            expected=f"{weights_sha256[:12]}...",
            action="Make it again with these weights, or take it away",
        )
    try:
        return _assemble(tensors, metadata)
    except (KeyError, ValueError) as error:
        raise BackboneError(
            f"damaged ({error})", where=path, expected="STAGES/features, or mean, components, variances and residual"
        ) from error


def _assemble(tensors: dict[str, NDArray], metadata: dict[str, str]) -> SourceFeatures:
    features: dict[Layer, NDArray] = {}
    gaussians: dict[Layer, LowRankGaussian] = {}
    for name in sorted({name.partition("/")[0] for name in tensors}):
        layer = tuple(int(stage) for stage in name.split("+"))
        if f"{name}/features" in tensors:
            features[layer] = _shaped(tensors[f"{name}/features"], 2)
            continue
        mean, components, variances, residual = (tensors[f"{name}/{part}"].astype(np.float64) for part in _GAUSSIAN)
        if components.shape != (len(_shaped(variances, 1)), len(_shaped(mean, 1))) or residual.size != 1:
            raise ValueError(f"components of shape {list(components.shape)} for layer {name}")
        gaussians[layer] = LowRankGaussian(mean, components, variances, float(residual.ravel()[0]))
    n_scans, given = int(metadata["n_scans"]), metadata.get("input", "")
    return SourceFeatures(metadata["weights_sha256"], n_scans, features, gaussians, given)


def _shaped(tensor: NDArray, n_axes: int) -> NDArray:
    if tensor.ndim != n_axes:
        raise ValueError(f"{tensor.ndim} axes instead of {n_axes}")
    return tensor


def _name(layer: Layer) -> str:
    return "+".join(map(str, layer))
