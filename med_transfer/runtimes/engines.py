"""The runtimes: how each converts an encoder's core to a file, quantises it to 8 bits, and runs it."""

from __future__ import annotations

import importlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from med_transfer.backbones import Features
from med_transfer.errors import MissingExtra, UsageError, not_installed
from med_transfer.runtimes.record import Format, Precision

log = logging.getLogger(__name__)

_BF16 = "BF16"


class Engine(Protocol):
    """One runtime.

    Attributes:
        packages: packages that it needs; the first one computes, the others are needed only for export.
        precisions: precisions that it supports.
        suffix: suffix of its files.
    """

    packages: tuple[str, ...]
    precisions: tuple[Precision, ...]
    suffix: str

    def convert(self, core: nn.Module, example: Tensor, path: Path) -> None:
        """Write the core to a file that accepts any batch size; the other dimensions are those of the example."""
        ...

    def quantise(self, path: Path, examples: Sequence[Tensor], quantised: Path) -> None:
        """Write the file's network with weights and activations in 8 bits, calibrated on example inputs."""
        ...

    def load(self, path: Path, precision: Precision) -> Features:
        """Load the file's network, to run on as many threads as torch uses."""
        ...


class OpenVino:
    """Intel's OpenVINO; a file for the graph (.xml) and one for the weights (.bin) beside it."""

    packages: tuple[str, ...] = ("openvino",)
    precisions: tuple[Precision, ...] = ("fp32", "bf16", "int8")
    suffix = ".xml"

    def convert(self, core: nn.Module, example: Tensor, path: Path) -> None:
        """Convert by tracing."""
        openvino = import_package("openvino")
        with _logging_as_before():
            model = openvino.convert_model(core, example_input=example, input=[-1, *example.shape[1:]])
        openvino.save_model(model, path, compress_to_fp16=False)

    def quantise(self, path: Path, examples: Sequence[Tensor], quantised: Path) -> None:
        """Quantise by nncf."""
        openvino = import_package("openvino")
        model = _openvino_core().read_model(path)
        in_8_bits = _quantised_int8(model, [example.numpy() for example in examples])
        openvino.save_model(in_8_bits, quantised, compress_to_fp16=False)

    def load(self, path: Path, precision: Precision) -> Features:
        """Load the network; int8 models compute their other layers in fp32, so that results do not depend on the
        processor."""
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = _openvino_core().compile_model(path, "CPU", settings)

        def features(batch: Tensor) -> Tensor:
            return torch.from_numpy(compiled(batch.contiguous().numpy())[0])

        return features

    def has_bf16(self) -> bool:
        """Whether this processor supports bfloat16 (AVX512-BF16 or AMX)."""
        return _BF16 in _openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@cache
def _openvino_core() -> Any:
    """The only Core, which lives as long as the process. It gives the thread that creates it an alternate signal stack.
    If another thread destroys it, that stack is gone, and the next Ctrl-C or SIGTERM ends in SIGSEGV."""
    return import_package("openvino").Core()


@contextmanager
def _logging_as_before() -> Iterator[None]:
    """Restore the root logger's level and filters, which OpenVINO's converter changes."""
    root = logging.getLogger()
    level, filters = root.level, list(root.filters)
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:] = filters


class Onnx:
    """ONNX Runtime; its .onnx files can be used by other programs, too."""

    packages: tuple[str, ...] = ("onnxruntime", "onnx", "onnxscript")  # the first computes, the others make the file
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    suffix = ".onnx"

    def convert(self, core: nn.Module, example: Tensor, path: Path) -> None:
        """Convert by torch.export."""
        two = torch.cat([example, example])[:2]  # torch.export would fix a batch size of 1
        batch = ({0: torch.export.Dim("n")},)
        torch.onnx.export(
            core, (two,), str(path), dynamo=True, dynamic_shapes=batch, external_data=False, verbose=False
        )

    def quantise(self, path: Path, examples: Sequence[Tensor], quantised: Path) -> None:
        """Quantise by nncf."""
        onnx = import_package("onnx")
        model = onnx.load(path)
        name = model.graph.input[0].name
        onnx.save(_quantised_int8(model, [{name: example.numpy()} for example in examples]), quantised)

    def load(self, path: Path, precision: Precision) -> Features:
        """Load the network, to compute in fp32 or as quantised."""
        onnxruntime = import_package("onnxruntime", "onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def features(batch: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {name: batch.contiguous().numpy()})[0])

        return features


def _quantised_int8(model: Any, examples: Sequence[Any]) -> Any:
    """Quantise a model with nncf, with three non-default settings, measured in docs/measured/eight_bits.md.

    - The bias of each layer is corrected by the output of the quantised network up to it, not by an estimate.
    - The range of activations is that of all examples, not the mean of their ranges. Otherwise unusual activations are
      clipped, and an out-of-distribution scan no longer appears as one.
    - Weights leave one bit unused, so that no sum overflows on processors that accumulate in 16 bits (AVX2, AVX-512
      without VNNI) and results do not depend on the processor.
    """
    nncf = import_package("nncf", "openvino")
    advanced = nncf.AdvancedQuantizationParameters(
        overflow_fix=import_package("nncf.quantization.advanced_parameters").OverflowFix.ENABLE,
        activations_range_estimator_params=import_package(
            "nncf.quantization.range_estimator"
        ).RangeEstimatorParametersSet.MINMAX,
    )
    with redirect_stdout(io.StringIO()):  # nncf prints progress bars to stdout, where results belong
        return nncf.quantize(
            model,
            nncf.Dataset(examples),
            subset_size=len(examples),
            fast_bias_correction=False,
            advanced_parameters=advanced,
        )


_OPENVINO, _ONNX = OpenVino(), Onnx()
ENGINES: dict[Format, Engine] = {"openvino": _OPENVINO, "onnx": _ONNX}


def core_file(number: int, engine: Engine) -> str:
    """File name of an encoder."""
    return f"encoder{number}{engine.suffix}"


def computable(format_: Format, precision: Precision) -> Precision:
    """Return the precision, or fp32 in place of bf16 if the processor does not support that, with a warning.

    Raises:
        MissingExtra: bf16 was requested, and OpenVINO is not installed.
        UsageError: the runtime does not support this precision.
    """
    engine = ENGINES[format_]
    if precision not in engine.precisions:
        raise UsageError(
            f"{precision} with {format_}", where="--precision", expected=f"one of {', '.join(engine.precisions)}"
        )
    if precision == "bf16" and not _OPENVINO.has_bf16():
        log.warning("this processor does not compute in bfloat16 (no AVX512-BF16, no AMX): fp32 is used instead")
        return "fp32"
    return precision


def missing_package(format_: Format, *, to_export: bool = False, int8: bool = False) -> str:
    """Return the first package of a runtime that is not installed, or an empty string.

    Args:
        format_: the runtime.
        to_export: include the packages that write its files, not only those that read them.
        int8: include the package that quantises to 8 bits.
    """
    needed = [*ENGINES[format_].packages[: None if to_export else 1], *(["nncf"] if int8 else [])]
    return next((name for name in needed if importlib.util.find_spec(name) is None), "")


def import_package(name: str, extra: str = "") -> ModuleType:
    """Import a package of a runtime. Raises MissingExtra, which names the extra to install."""
    try:
        with quiet():
            return importlib.import_module(name)
    except ImportError as error:
        raise missing(name, extra or name) from error


def missing(package: str, extra: str) -> MissingExtra:
    """The error for a package that is not installed."""
    return not_installed(package, extra, f"runtime {extra}", instead="use --runtime torch")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' warnings, which address developers, not users."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
