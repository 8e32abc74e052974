"""What a source's scans looked like to its network: kept beside the weights, to measure how far a target lies.

A ``.safetensors`` file. For each layer either the features of some source scans or the Gaussian that describes them::

    tensors    "2/features"  [scan, feature]                    stage 2 (counted from 0, shallow to deep), pooled
               "2+3/mean"    [feature]                          stages 2 and 3 pooled and joined
               "2+3/components" [component, feature], "2+3/variances" [component], "2+3/residual" []
    metadata   format, weights_sha256, n_scans, and input where it is known

Tables of as many rows are of the same inputs in the same order, so that stages can be joined. The file stands beside
the weights under their name, as :func:`source_features_path` says. Features of patients are data of patients: a subset
is enough, and a Gaussian gives no single scan away.
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
    """Covariance C' diag(variances) C + residual (I - C' C), C the components.

    Attributes:
        mean: [feature].
        components: [component, feature], orthonormal rows.
        variances: [component].
        residual: variance along every other direction.
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
    """Of the source scans, in evaluation mode, means over space of the stages' feature maps.

    Attributes:
        weights_sha256: of the weights file that made them.
        n_scans: how many scans are described.
        features: layer (stages, counted from 0) to [scan, feature].
        gaussians: layer to what describes its features, where they are not kept themselves.
        input: how the scans were given to the network, in words; empty where that is not known.
    """

    weights_sha256: str
    n_scans: int
    features: Mapping[Layer, NDArray[np.floating]] = field(default_factory=dict)
    gaussians: Mapping[Layer, LowRankGaussian] = field(default_factory=dict)
    input: str = ""

    def table(self, layer: Layer) -> NDArray[np.floating] | None:
        """[scan, feature] of a layer, joined from its stages where they are kept one by one; None when they are not."""
        if layer in self.features:
            return self.features[layer]
        stages = [self.features.get((stage,)) for stage in layer]
        tables = [table for table in stages if table is not None]
        if len(tables) < len(layer) or len({len(table) for table in tables}) > 1:
            return None
        return np.concatenate(tables, axis=1)


def source_features_path(weights: Path) -> Path:
    """Where the source features of a weights file stand: beside it, as ``NAME.source.safetensors``."""
    return weights.with_name(weights.name.removesuffix(".safetensors") + SUFFIX)


def write_source_features(path: Path, source: SourceFeatures) -> None:
    """Write the file, atomically. Raises OutputError."""
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
        weights_sha256: of the weights that are in use.

    Raises:
        BackboneError: it cannot be read, is of another kind, is incomplete, or was made with other weights.
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
