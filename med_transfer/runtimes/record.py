"""The record of an export in the bundle's folder, and how exports are found and read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from med_transfer import atomic
from med_transfer.errors import BundleError
from med_transfer.errors.validation import first_problem

Precision = Literal["fp32", "bf16", "int8"]
Format = Literal["openvino", "onnx"]

EXPORT_FILE, MODELS_FOLDER = "export.json", "models"
SCHEMA = "1"
EXPORT_AGAIN = "Export it again, or delete the folder"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class Check(_Record):
    """Result of comparing the exported network with torch.

    Attributes:
        n_scans: number of scans compared.
        against: reference of the sensitivities: the scans' ``labels``, or torch's own ``calls`` if there are none.
        by_fold: whether each scan was predicted by the one fold model that was not trained on it.
        probability_difference, novelty_difference: largest absolute difference over all scans and classes.
        n_abstentions_changed: number of scans that abstain by novelty with one network and not with the other.
        sensitivity: (with torch, as exported) for each class that has scans; for findings also the specificity, as
            ``no NAME``.
        unchecked: the classes that have no scans, or ``no NAME``, whose sensitivity therefore says nothing.
    """

    n_scans: int
    against: Literal["labels", "calls"]
    by_fold: bool
    probability_difference: float
    novelty_difference: float
    n_abstentions_changed: int
    sensitivity: dict[str, tuple[float, float]]
    unchecked: tuple[str, ...] = ()


class ExportRecord(_Record):
    """``export.json``.

    Attributes:
        format, precision: runtime, and precision of its arithmetic.
        weights_sha256: hash of the bundle's weights that were exported.
        encoders: for each encoder of each fold model in turn, its number among the files.
        files: SHA-256 of each file, by name.
        check: comparison with torch.
        torch_seconds, seconds: time per scan for all fold models, with torch and as exported, where it was exported.
        processor: the processor of that machine.
        versions: versions of the packages that made it.
    """

    schema_version: Literal["1"] = Field(default="1", alias="schema")
    format: Format
    precision: Precision
    weights_sha256: str
    encoders: tuple[int, ...]
    files: dict[str, str]
    check: Check
    torch_seconds: float = Field(gt=0)
    seconds: float = Field(gt=0)
    processor: str
    versions: dict[str, str]

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.format}-{self.precision}"


def read_exports(bundle: Path, weights_sha256: str) -> list[tuple[Path, ExportRecord]]:
    """Read the folder and record of every export in a bundle, sorted by name.

    Args:
        bundle: the bundle's folder.
        weights_sha256: hash of the bundle's weights.

    Raises:
        BundleError: a record cannot be read, is from a newer version, or belongs to other weights.
    """
    found = []
    for path in sorted((bundle / MODELS_FOLDER).glob(f"*/{EXPORT_FILE}")):
        record = _read(path)
        if record.weights_sha256 != weights_sha256:
            raise BundleError("was exported from other weights", where=path, action=EXPORT_AGAIN)
        found.append((path.parent, record))
    return found


def require_files(folder: Path, record: ExportRecord) -> None:
    """Raise BundleError if a file of the export is missing or was changed."""
    for name, sha256 in record.files.items():
        path = folder / name
        if not path.is_file():
            raise BundleError("the exported network is missing", where=path, action=EXPORT_AGAIN)
        if sha256_of(path) != sha256:
            raise BundleError(
                "the exported network was changed",
                where=path,
                expected=f"SHA-256 {sha256[:12]}...",
                action=EXPORT_AGAIN,
            )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file. Raises BundleError."""
    try:
        return atomic.sha256_of(path)
    except OSError as error:
        raise BundleError(error.strerror or "cannot be read", where=path, action=EXPORT_AGAIN) from None


def _read(path: Path) -> ExportRecord:
    try:
        return ExportRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BundleError(error.strerror or "cannot be read", where=path, action=EXPORT_AGAIN) from None
    except ValidationError as error:
        found, key = first_problem(error)
        if key == "schema":
            raise BundleError(
                f"schema {error.errors()[0]['input']!r}, of a newer version",
                where=path,
                expected=f"schema {SCHEMA!r}",
                action="Update med-transfer, or export the bundle again with this version",
            ) from None
        raise BundleError(f"{key or 'record'}: {found}", where=path, action=EXPORT_AGAIN) from None
