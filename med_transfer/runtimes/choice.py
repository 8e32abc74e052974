"""Choice of the runtime that computes a bundle's network."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from med_transfer.errors import BundleError, ConfigError
from med_transfer.model.ensemble import Ensemble
from med_transfer.runtimes.cores import computed_by, distinct
from med_transfer.runtimes.engines import ENGINES, computable, core_file, missing, missing_package
from med_transfer.runtimes.record import EXPORT_AGAIN, EXPORT_FILE, ExportRecord, read_exports, require_files

log = logging.getLogger(__name__)

Runtime = Literal["auto", "torch", "openvino", "onnx"]


@dataclass(frozen=True)
class ChosenNetwork:
    """A network ready to predict.

    Attributes:
        ensemble: the network, with its encoders computed by the runtime.
        export: record of the export; None for torch.
        precision: precision of the computation: that of the export, but fp32 instead of bf16 if the processor lacks it.
    """

    ensemble: Ensemble
    export: ExportRecord | None = None
    precision: str = "fp32"

    @property
    def name(self) -> str:
        """``torch``, or the runtime and its precision, such as ``openvino int8``."""
        return "torch" if self.export is None else f"{self.export.format} {self.precision}"

    @property
    def sentence(self) -> str:
        """What computes the network, for the user."""
        if self.export is None:
            return "computed by torch"
        gain = self.export.torch_seconds / self.export.seconds
        return f"computed by {self.name} ({gain:.1f} times as fast as torch where it was exported)"


def choose_network(
    network: Ensemble, bundle: Path, weights_sha256: str, runtime: Runtime = "auto", device: str = "cpu"
) -> ChosenNetwork:
    """Return the network as computed by a runtime.

    ``auto`` takes the bundle's fastest export that works here and was faster than torch, else torch.

    Args:
        network: the bundle's network.
        bundle: the bundle's folder.
        weights_sha256: hash of the bundle's weights.
        runtime: the requested runtime.
        device: ``cpu`` or ``cuda``; only torch can use a GPU.

    Raises:
        BundleError: there is no export for that runtime, or one was changed, has other weights or is from a newer
            version.
        MissingExtra: the requested runtime is not installed.
        ConfigError: the runtime is unknown, or cannot use a GPU.
    """
    if runtime not in ("auto", "torch", *ENGINES):
        raise ConfigError(f"runtime {runtime!r}", expected=f"one of auto, torch, {', '.join(ENGINES)}")
    if runtime == "torch" or (runtime == "auto" and device != "cpu"):
        return ChosenNetwork(network)
    if device != "cpu":
        raise ConfigError(f"runtime {runtime} on {device}", expected="device cpu, or runtime torch")
    exports = [one for one in read_exports(bundle, weights_sha256) if runtime in ("auto", one[1].format)]
    if runtime != "auto":
        if package := missing_package(runtime):
            raise missing(package, runtime)
        if not exports:
            raise BundleError(
                f"holds no network for {runtime}",
                where=bundle,
                action=f"Run: med-transfer export BUNDLE --to {runtime}",
            )
    exports = [one for one in exports if runtime != "auto" or _works(one[1])]
    if not exports:
        return ChosenNetwork(network)
    folder, fastest = min(exports, key=lambda one: one[1].seconds)
    _require_encoders(folder, fastest, network)
    require_files(folder, fastest)
    precision = computable(fastest.format, fastest.precision)
    engine, n_encoders = ENGINES[fastest.format], 1 + max(fastest.encoders)
    cores = [engine.load(folder / core_file(number, engine), precision) for number in range(n_encoders)]
    with torch.no_grad():
        return ChosenNetwork(computed_by(network, cores, fastest.encoders), fastest, precision)


def _require_encoders(folder: Path, export: ExportRecord, network: Ensemble) -> None:
    """Raise BundleError if the export assigns encoders to fold models unlike the bundle, or lacks an encoder's file."""
    files = {core_file(number, ENGINES[export.format]) for number in export.encoders}
    if _sharing(export.encoders) != _sharing(distinct(network)[1]) or not files <= export.files.keys():
        raise BundleError(
            f"fold models are given encoders {list(export.encoders)}",
            where=folder / EXPORT_FILE,
            expected="those of the bundle",
            action=EXPORT_AGAIN,
        )


def _sharing(encoders: Sequence[int]) -> list[int]:
    """For each entry the index of the first with the same encoder, which does not depend on the numbering."""
    return [list(encoders).index(number) for number in encoders]


def _works(export: ExportRecord) -> bool:
    """Whether the export is faster than torch and its runtime is installed; logs a warning if it is not installed."""
    if package := missing_package(export.format):
        log.warning(
            "the bundle's network for %s is not used: package %s is not installed; run: pip install 'med-transfer[%s]'",
            *(export.format, package, export.format),
        )
        return False
    return export.seconds < export.torch_seconds
