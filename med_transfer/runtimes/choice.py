"""Which runtime computes a bundle's network."""

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
from med_transfer.runtimes.record import AGAIN, EXPORT_FILE, ExportRecord, read_exports, require_files

log = logging.getLogger(__name__)

Runtime = Literal["auto", "torch", "openvino", "onnx"]


@dataclass(frozen=True)
class ChosenNetwork:
    """A network ready to predict.

    Attributes:
        ensemble: with its encoders computed by the runtime.
        export: what is known of it; None for torch.
        precision: that is computed in, which may be less than was exported for.
    """

    ensemble: Ensemble
    export: ExportRecord | None = None
    precision: str = "fp32"

    @property
    def name(self) -> str:
        """``torch``, or the runtime and its precision."""
        return "torch" if self.export is None else f"{self.export.format} {self.precision}"

    @property
    def sentence(self) -> str:
        """For a person."""
        if self.export is None:
            return "computed by torch"
        gain = self.export.torch_seconds / self.export.seconds
        return f"computed by {self.name} ({gain:.1f} times as fast as torch where it was exported)"


def choose_network(
    network: Ensemble, bundle: Path, weights_sha256: str, runtime: Runtime = "auto", device: str = "cpu"
) -> ChosenNetwork:
    """The network as the wanted runtime computes it; ``auto`` takes the fastest of the bundle's exports that work here.

    Args:
        network: of the bundle.
        bundle: its folder.
        weights_sha256: of its weights.
        runtime: the wanted one.
        device: ``cpu`` or ``cuda``; on a GPU only torch computes.

    Raises:
        BundleError: no export of that runtime; one that was changed, or is of other weights or a newer version.
        MissingExtra: the wanted runtime is not installed.
        ConfigError: no such runtime, or a GPU with a runtime of the processor.
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
    """Refuse one that gives fold models other encoders than the bundle does, or one of no file. Raises BundleError."""
    files = {core_file(number, ENGINES[export.format]) for number in export.encoders}
    if _sharing(export.encoders) != _sharing(distinct(network)[1]) or not files <= export.files.keys():
        raise BundleError(
            f"fold models are given encoders {list(export.encoders)}",
            where=folder / EXPORT_FILE,
            expected="those of the bundle",
            action=AGAIN,
        )


def _sharing(encoders: Sequence[int]) -> list[int]:
    """For each fold model the first one with its encoder, however they are numbered."""
    return [list(encoders).index(number) for number in encoders]


def _works(export: ExportRecord) -> bool:
    """Whether it is faster than torch and its runtime is installed; if not, that is said."""
    if package := missing_package(export.format):
        log.warning(
            "the bundle's network for %s is not used: package %s is not installed; run: pip install 'med-transfer[%s]'",
            *(export.format, package, export.format),
        )
        return False
    return export.seconds < export.torch_seconds
