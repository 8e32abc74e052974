"""Export of a bundle's network to another runtime: converted, checked on real scans, and stored beside the weights."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.backbones import Encoder
from med_transfer.bundle import BundleRecord, bundle_folder, load_network, read_whole
from med_transfer.bundle.signature import sign_bundle, verify_bundle
from med_transfer.errors import BundleError, MedTransferError, OutputError, UsageError
from med_transfer.errors.numbers import counted
from med_transfer.model.ensemble import Ensemble
from med_transfer.progress import Progress, silent
from med_transfer.runtimes.checking import CheckScans, answers, compare, objections, scans_of_run, scans_of_table
from med_transfer.runtimes.cores import computed_by, core_inputs, distinct
from med_transfer.runtimes.engines import ENGINES, computable, core_file, missing, missing_package, quiet
from med_transfer.runtimes.record import (
    EXPORT_FILE,
    MODELS_FOLDER,
    ExportRecord,
    Format,
    Precision,
    sha256_of,
)

log = logging.getLogger(__name__)

_CALIBRATION_SCANS, _CALIBRATION_BATCHES = 32, 128
_TIMED_SCANS = 5


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
        folder: where it is stored; None if it may not be used and was discarded.
        record: its record, with the result of the check.
        objections: reasons why it may not be used; empty if it may.
    """

    folder: Path | None
    record: ExportRecord
    objections: tuple[str, ...]

    @property
    def sentences(self) -> list[str]:
        """Sentences that describe the result to the user."""
        record, check = self.record, self.record.check
        how = ", each by the fold model that had not seen it" if check.by_fold else ""
        how += "" if check.against == "labels" else ", by torch's own calls since they have no labels"
        lines = [
            f"checked on {counted(check.n_scans, 'scan')}{how}",
            f"largest difference of a probability {check.probability_difference:.2g}, of novelty "
            f"{check.novelty_difference:.2g}; {check.n_abstentions_changed} abstentions change",
            *(f"{name}: not checked, there are no scans of it" for name in check.unchecked),
            *(f"{name}: {before:.3f} with torch, {after:.3f}" for name, (before, after) in check.sensitivity.items()),
            f"{record.seconds:.3g} s a scan, {record.torch_seconds:.3g} with torch: "
            f"{record.torch_seconds / record.seconds:.1f} times as fast",
        ]
        if self.folder is None:
            return [*lines, f"not kept, torch stays in use: {'; '.join(self.objections)}"]
        return [*lines, str(self.folder)]


def export_bundle(
    bundle: Path | str,
    to: Format,
    precision: Precision = "fp32",
    scans: Path | str | None = None,
    *,
    sign_key: Path | None = None,
    progress: Progress = silent,
) -> Exported:
    """Export a bundle's network, check it, and store it in the bundle's folder if it passes.

    Args:
        bundle: the bundle, or the run folder that holds one.
        to: the runtime.
        precision: precision of the arithmetic; bf16 becomes fp32, with a warning, if the processor does not support it.
        scans: a table of scans for the check and for the calibration of int8; None: the run's own development scans.
        sign_key: private key to sign the bundle with afterwards; required if it is signed.
        progress: called as encoders are exported.

    Raises:
        BundleError: the folder is not a bundle, was changed, or is signed and no key was given.
        MissingExtra: the runtime is not installed.
        UsageError: the precision is not supported, there are no scans for the check, or the runtime cannot compute the
            network.
        CohortError, NothingDone: the table of scans cannot be read, or none of them can be used.
        OutputError: the export cannot be written.
        FolderInUse: another export of the bundle is running.
    """
    folder = bundle_folder(bundle)
    record = read_whole(folder)
    if lacking := missing_package(to, to_export=True, int8=precision == "int8"):
        raise missing(lacking, to)
    precision = computable(to, precision)
    if verify_bundle(folder) is not None and sign_key is None:
        raise BundleError(
            "is signed, and a signature covers every file: an exported network would break it",
            where=folder,
            expected="a key to sign it with again, once you have verified it",
            action="Give --sign-key, or export a copy without its folder signature/",
        )
    network = load_network(folder)
    given = scans_of_table(Path(scans), record, progress) if scans is not None else scans_of_run(folder, record)
    with _workplace(folder) as work:
        written = _export(network, record, to, precision, given, work / "export", progress)
        kept = _keep(work / "export", folder / MODELS_FOLDER / written.name, written, precision)
        if sign_key is not None:
            sign_bundle(folder, sign_key)
    return kept


@contextmanager
def _workplace(bundle: Path) -> Iterator[Path]:
    """Create an empty work folder, for one export at a time.

    It lies beside the bundle, not inside, because the bundle's signature covers every file. Remains of an interrupted
    export are removed by the next.
    """
    bundle = bundle.resolve()  # with_name would misplace "." and ".."
    place = bundle.with_name(f".export-{bundle.name}")
    with sole_writer(place), tempfile.TemporaryDirectory(dir=place) as work:
        for left in (path for path in place.iterdir() if path.is_dir() and path != Path(work)):
            shutil.rmtree(left, ignore_errors=True)
        yield Path(work)
    with suppress(OSError):
        place.rmdir()  # another export may have started in it


def _export(
    network: Ensemble,
    record: BundleRecord,
    to: Format,
    precision: Precision,
    scans: CheckScans,
    out: Path,
    progress: Progress,
) -> ExportRecord:
    """Write the files of every distinct encoder, check and time them, and return their record."""
    encoders, numbers = distinct(network)
    out.mkdir()
    cores = []
    for number, (encoder, stages) in enumerate(encoders):
        path = out / core_file(number, ENGINES[to])
        _write(encoder, stages, to, precision, scans, path)
        cores.append(ENGINES[to].load(path, precision))
        progress("exporting", number + 1, len(encoders))
    computed = computed_by(network, cores, numbers)
    torch_seconds, seconds = _seconds([network, computed], scans)
    return ExportRecord(
        format=to,
        precision=precision,
        weights_sha256=record.weights_sha256,
        encoders=numbers,
        files={path.name: sha256_of(path) for path in sorted(out.iterdir())},
        check=compare(answers(network, scans), answers(computed, scans), scans, record),
        torch_seconds=torch_seconds,
        seconds=seconds,
        processor=platform.processor() or platform.machine(),
        versions={
            name: importlib.metadata.version(name) for name in ("med-transfer", "torch", ENGINES[to].packages[0])
        },
    )


def _write(
    encoder: Encoder, stages: Sequence[int], to: Format, precision: Precision, scans: CheckScans, path: Path
) -> None:
    """Write the file of one encoder. Raises UsageError if the runtime cannot compute it, OutputError."""
    core = encoder.core(stages).eval()
    several = min(_CALIBRATION_SCANS, len(scans.tensors)) if precision == "int8" else 1
    chosen = [number * len(scans.tensors) // several for number in range(several)]  # evenly spaced, in whatever order
    batches = [batch for number in chosen for batch in core_inputs(encoder, stages, scans.image(number))]
    try:
        with quiet(), torch.no_grad():
            if precision != "int8":
                ENGINES[to].convert(core, batches[0], path)
                return
            plain = path.with_name(f"plain{path.suffix}")
            ENGINES[to].convert(core, batches[0], plain)
            ENGINES[to].quantise(plain, _spread(batches), path)
            for file in path.parent.glob("plain*"):
                file.unlink()
    except MedTransferError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write ({error.strerror})", where=path.parent) from None
    except Exception as error:  # each library has errors of its own
        raise UsageError(
            f"{to} cannot compute this network: {_first_lines(error)}",
            where=type(encoder).__name__,
            action="Use the bundle with torch, or try another --to",
        ) from error


def _spread(batches: Sequence[Tensor]) -> list[Tensor]:
    n = min(_CALIBRATION_BATCHES, len(batches))
    return [batches[number * len(batches) // n] for number in range(n)]


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


@torch.inference_mode()
def _seconds(networks: Sequence[Ensemble], scans: CheckScans) -> list[float]:
    """Median seconds that each network's fold models take together for one scan. The networks take turns, so that other
    load on the machine slows all alike; the first scan is a warm-up."""
    spent: list[list[float]] = [[] for _ in networks]
    for number in range(_TIMED_SCANS + 1):
        image = scans.image(number % len(scans.tensors))[None]
        for network, times in zip(networks, spent, strict=True):
            started = time.perf_counter()
            network.fold_model_features(image)
            times.append(time.perf_counter() - started)
    return [statistics.median(times[1:]) for times in spent]


def _keep(made: Path, folder: Path, record: ExportRecord, precision: Precision) -> Exported:
    """Move the export to its place if it passed the check; an earlier one is removed in any case."""
    against = tuple(objections(record.check, precision))
    try:
        (made / EXPORT_FILE).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(made.with_name("before"))  # atomic: a half-deleted export would look damaged
        if against:
            return Exported(None, record, against)
        made.rename(folder)
    except OSError as error:
        raise OutputError(f"cannot write ({error.strerror})", where=folder) from None
    return Exported(folder, record, ())
