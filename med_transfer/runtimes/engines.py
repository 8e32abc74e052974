"""The runtimes: how each converts an encoder's core to a file, brings it to 8 bits, and computes it again."""

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
        packages: that it needs.
        precisions: that it has.
        suffix: of its file.
    """

    packages: tuple[str, ...]
    precisions: tuple[Precision, ...]
    suffix: str

    def convert(self, core: nn.Module, example: Tensor, path: Path) -> None:
        """Write the core as a file that takes any number of instances of the example's size."""
        ...

    def quantise(self, path: Path, examples: Sequence[Tensor], quantised: Path) -> None:
        """Write the file's network again, weights and activations in 8 bits, by what inputs look like."""
        ...

    def load(self, path: Path, precision: Precision) -> Features:
        """The file's network, on as many threads as torch has."""
        ...


class OpenVino:
    """Intel's runtime: a file of the graph (.xml) and one of the weights (.bin) beside it."""

    packages: tuple[str, ...] = ("openvino",)
    precisions: tuple[Precision, ...] = ("fp32", "bf16", "int8")
    suffix = ".xml"

    def convert(self, core: nn.Module, example: Tensor, path: Path) -> None:
        """By tracing."""
        openvino = import_package("openvino")
        with _logging_as_before():
            model = openvino.convert_model(core, example_input=example, input=[-1, *example.shape[1:]])
        openvino.save_model(model, path, compress_to_fp16=False)

    def quantise(self, path: Path, examples: Sequence[Tensor], quantised: Path) -> None:
        """By nncf."""
        openvino = import_package("openvino")
        model = _openvino_core().read_model(path)
        in_8_bits = _in_8_bits(model, [example.numpy() for example in examples])
        openvino.save_model(in_8_bits, quantised, compress_to_fp16=False)

    def load(self, path: Path, precision: Precision) -> Features:
        """What is not in 8 bits is computed in 32: so an answer does not hang on the processor."""
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
        """Whether this processor computes in bfloat16 (AVX512-BF16 or AMX)."""
        return _BF16 in _openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@cache
def _openvino_core() -> Any:
    """One, that lives as long as the process. It gives the thread that makes it a stack to handle signals on; where
    another thread destroys it that stack is gone, and the next Ctrl-C or SIGTERM ends the process by SIGSEGV."""
    return import_package("openvino").Core()


@contextmanager
def _logging_as_before() -> Iterator[None]:
    """OpenVINO's converter raises the level of the root logger and filters it, and leaves both so."""
    root = logging.getLogger()
    level, filters = root.level, list(root.filters)
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:] = filters


class Onnx:
    """ONNX Runtime, and a file that other programs read too."""

    packages: tuple[str, ...] = ("onnxruntime", "onnx", "onnxscript")  # the first computes, the others make the file
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    suffix = ".onnx"

    def convert(self, core: nn.Module, example: Tensor, path: Path) -> None:
        """By torch.export."""
        two = torch.cat([example, example])[:2]  # one alone would be taken for the only number there is
        batch = ({0: torch.export.Dim("n")},)
        torch.onnx.export(
            core, (two,), str(path), dynamo=True, dynamic_shapes=batch, external_data=False, verbose=False
        )

    def quantise(self, path: Path, examples: Sequence[Tensor], quantised: Path) -> None:
        """By nncf."""
        onnx = import_package("onnx")
        model = onnx.load(path)
        name = model.graph.input[0].name
        onnx.save(_in_8_bits(model, [{name: example.numpy()} for example in examples]), quantised)

    def load(self, path: Path, precision: Precision) -> Features:
        """In 32 bits, or as quantised."""
        onnxruntime = import_package("onnxruntime", "onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def features(batch: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {name: batch.contiguous().numpy()})[0])

        return features


def _in_8_bits(model: Any, examples: Sequence[Any]) -> Any:
    """By nncf, with three settings of its own that answers on real scans hang on (docs/runtimes.md).

    - The bias of each layer is corrected by what the quantised network gives up to there, not by an estimate.
    - Activations reach as far as any example's, not as the mean of theirs: else what is unlike most is cut off, and a
      scan that is unlike all others no longer looks so.
    - Weights leave a bit free, so that no sum overflows where a processor adds in 16 bits (AVX2, AVX-512 without VNNI):
      an answer does not hang on the processor.
    """
    nncf = import_package("nncf", "openvino")
    advanced = nncf.AdvancedQuantizationParameters(
        overflow_fix=import_package("nncf.quantization.advanced_parameters").OverflowFix.ENABLE,
        activations_range_estimator_params=import_package(
            "nncf.quantization.range_estimator"
        ).RangeEstimatorParametersSet.MINMAX,
    )
    with redirect_stdout(io.StringIO()):  # nncf draws its bars where results belong
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
    """Name of the file of an encoder."""
    return f"encoder{number}{engine.suffix}"


def computable(format_: Format, precision: Precision) -> Precision:
    """The precision, or fp32 where this processor does not compute in bfloat16, which is said.

    Raises:
        MissingExtra: the runtime is not installed.
        UsageError: it has no such precision.
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
    """The first package of a runtime that is not installed; empty where all are.

    Args:
        to_export: what makes files counts too, not only what reads them.
        int8: what brings them to 8 bits.
    """
    needed = [*ENGINES[format_].packages[: None if to_export else 1], *(["nncf"] if int8 else [])]
    return next((name for name in needed if importlib.util.find_spec(name) is None), "")


def import_package(name: str, extra: str = "") -> ModuleType:
    """A package of a runtime. Raises MissingExtra, which names the extra."""
    try:
        with quiet():
            return importlib.import_module(name)
    except ImportError as error:
        raise missing(name, extra or name) from error


def missing(package: str, extra: str) -> MissingExtra:
    """What to say where a package is not installed."""
    return not_installed(package, extra, f"runtime {extra}", instead="use --runtime torch")


@contextmanager
def quiet() -> Iterator[None]:
    """The libraries' advice is for developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
