"""Read a bundle's record after verifying that its files are unchanged, without building a network."""

from __future__ import annotations

import importlib.metadata
import json
import os
from pathlib import Path

from pydantic import ValidationError

from med_transfer.atomic import sha256_of
from med_transfer.bundle.decisions_lock import DECISIONS_FILE, require_lock
from med_transfer.bundle.record import RECORD_FILE, BundleRecord
from med_transfer.errors import BundleError, given_path
from med_transfer.errors.validation import first_problem

BUNDLE_FOLDER, WEIGHTS_FILE = "bundle", "models/model.safetensors"
_PACKAGES = ("med-transfer", "monai", "torch", "numpy", "pydicom", "nibabel", "safetensors")


def read_record(folder: Path) -> BundleRecord:
    """Read and verify a bundle's record.

    Raises:
        BundleError: the folder is not a bundle, is one that this version cannot read, or was changed.
    """
    path = Path(folder) / RECORD_FILE
    try:
        text = path.read_text(encoding="utf-8")
        record = BundleRecord.model_validate_json(text)
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(
            "not a bundle",
            where=folder,
            expected=f"a folder with {RECORD_FILE}",
            action="Give RUN/bundle of a finished run",
        ) from None
    except OSError as error:
        raise BundleError(error.strerror or "cannot be read", where=path, expected="the bundle's record") from None
    except (ValidationError, UnicodeDecodeError) as error:
        found, key = first_problem(error) if isinstance(error, ValidationError) else ("not text", "")
        if key == "schema" and isinstance(error, ValidationError):
            raise BundleError(
                f"schema {error.errors()[0]['input']!r}, of a newer version",
                where=path,
                expected="schema '1'",
                action="Update med-transfer",
            ) from None
        raise BundleError(f"{key or 'record'}: {found}", where=path, expected="a bundle of this version") from None
    require_lock(json.loads(text), path, run_folder(folder))
    for name, sha256 in record.files.items():
        _require_file(Path(folder) / name, sha256)
    return record


def read_whole(folder: Path) -> BundleRecord:
    """Read a bundle's record and verify its weights as well. Raises BundleError."""
    record = read_record(folder)
    _require_file(folder / WEIGHTS_FILE, record.weights_sha256, "weights")
    return record


def bundle_folder(folder: os.PathLike[str] | str) -> Path:
    """Return the bundle inside a run folder; any other folder is returned unchanged. Raises UsageError for no path."""
    given = given_path(folder, "bundle", "the folder of a bundle, or of a run that contains one")
    return inside if (inside := given / BUNDLE_FOLDER).is_dir() else given


def run_folder(folder: Path) -> Path | None:
    """Return the run folder that contains a bundle; None if the bundle was copied, or the run is older than locks."""
    folder = Path(folder).resolve()
    return folder.parent if folder.name == BUNDLE_FOLDER and (folder.parent / DECISIONS_FILE).is_file() else None


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that affect results."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def _require_file(path: Path, sha256: str, what: str = "contents") -> None:
    """Verify a file's SHA-256. A non-regular file counts as missing, as reading a device may never end."""
    again = "Copy the whole bundle folder again"
    try:
        found = sha256_of(path) if path.is_file() else None
    except OSError as error:
        raise BundleError(error.strerror or "cannot be read", where=path, action=again) from None
    if found is None:
        raise BundleError(f"{what} are missing", where=path, action=again)
    if found != sha256:
        raise BundleError(
            f"{what} are not the ones this bundle was made with",
            where=path,
            expected=f"SHA-256 {sha256[:12]}...",
            action=again,
        )
