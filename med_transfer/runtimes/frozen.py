"""Computing the frozen encoder of a network in training with a runtime other than torch."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from med_transfer.backbones import Encoder
from med_transfer.errors import UsageError
from med_transfer.runtimes.cores import core_inputs
from med_transfer.runtimes.engines import ENGINES, missing, missing_package, quiet
from med_transfer.runtimes.record import Format


def require_runtime(runtime: Format) -> None:
    """Raise MissingExtra if the runtime is not installed."""
    if lacking := missing_package(runtime, to_export=True):
        raise missing(lacking, runtime)


@torch.no_grad()
def computed_encoder(encoder: Encoder, stages: Sequence[int], image: Tensor, runtime: Format) -> Encoder:
    """Return a copy of the encoder that the runtime computes in fp32.

    Args:
        encoder: frozen, on the CPU, in evaluation mode.
        stages: the stages that are read.
        image: an input [channel, depth, height, width] to trace the network with.
        runtime: the runtime, which must be installed.

    Raises:
        UsageError: the runtime cannot compute this network.
    """
    engine = ENGINES[runtime]
    core = encoder.core(stages).eval()
    with tempfile.TemporaryDirectory(prefix="med-transfer-") as folder:
        path = Path(folder) / f"encoder{engine.suffix}"
        try:
            with quiet():
                engine.convert(core, core_inputs(encoder, stages, image)[0], path)
                computed = engine.load(path, "fp32")
        except Exception as error:  # each library has errors of its own
            raise UsageError(
                f"{runtime} cannot compute this network: {' '.join(str(error).split())[:300]}",
                where=type(encoder).__name__,
                action="Leave backbone.runtime out: torch computes every network",
            ) from error
    return copy.deepcopy(encoder).with_core(computed)
