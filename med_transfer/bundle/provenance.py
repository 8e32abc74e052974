"""Training provenance of a network, whether its weights are a bundle, a pretraining, or a file of either."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from med_transfer.bundle.files import WEIGHTS_FILE, read_record
from med_transfer.bundle.record import RECORD_FILE, HeldOut, Provenance
from med_transfer.cohorts import SOURCE_LOCK_FILE, Cohort, Images, SourceLock, seen_before
from med_transfer.errors import CohortError

LOCK_METADATA = "source_lock"  # metadata key in a weights file, which may be copied without its folder
_LICENCES_METADATA = "licences"
# A single key with both: several are written in random order, and equal networks would have unequal files.
_OF_BUNDLE = "of_bundle"
_ENCODER_FILE = "encoder.safetensors"


def source_provenance(weights: Path | None) -> Provenance | None:
    """Return which patients and scans a source network was trained on, including its own sources; None if unknown.

    Args:
        weights: a bundle's folder or model file, a pretraining's folder or encoder, or any other weights file.

    Raises:
        BundleError, CohortError: the bundle's record or the source lock cannot be read.
    """
    if weights is None:
        return None
    if (bundle := _bundle(weights)) is not None:
        return read_record(bundle).trained_on
    encoder = _encoder(weights)
    locks = [lock for lock in (_beside(encoder), _embedded_lock(encoder)) if lock]
    if not locks:
        return None
    return Provenance(
        cohort_hash=locks[0].source_hash,
        patient_hashes=tuple(sorted(set().union(*(lock.patient_hashes for lock in locks)))),
        content_hashes=tuple(sorted(set().union(*(lock.content_hashes for lock in locks)))),
    )


def seen_in_training(
    provenance: Provenance | HeldOut | None, cohort: Cohort, content_hashes: Sequence[Images]
) -> tuple[int, ...]:
    """Return the positions of scans that are in a provenance themselves or through their patient.

    Args:
        provenance: hashes to compare with; None gives no positions.
        cohort: the cohort to check.
        content_hashes: content hashes of each case's scans; where empty, only patients are compared.
    """
    if provenance is None:
        return ()
    return seen_before(cohort, content_hashes, provenance.patient_hashes, provenance.content_hashes)


def source_licences(weights: Path | None) -> tuple[str, ...]:
    """Return the licences that a user's network inherits from the weights it started from or was distilled from.

    Args:
        weights: as in :func:`source_provenance`. A published file gives none, as the catalogue has its licence.

    Raises:
        BundleError, CohortError: the bundle's record, or what its model file remembers, cannot be read.
    """
    if weights is None:
        return ()
    if (bundle := _bundle(weights)) is not None:
        return (read_record(bundle).backbone.licence,)
    try:
        names = json.loads(_header(_encoder(weights)).get(_LICENCES_METADATA, "[]"))
    except ValueError:
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def provenance_metadata(seen: Provenance, licence: str) -> dict[str, str]:
    """Return the metadata by which the file of a trained network, copied without its folder, tells its provenance."""
    lock = SourceLock.of(set(seen.patient_hashes), set(seen.content_hashes))
    licences = json.dumps([licence])
    return {_OF_BUNDLE: json.dumps({LOCK_METADATA: lock.model_dump_json(by_alias=True), _LICENCES_METADATA: licences})}


def _bundle(weights: Path) -> Path | None:
    weights = weights.resolve()  # the path may begin within the bundle, or be a link to its model file
    folder = weights.parent.parent if weights.as_posix().endswith(f"/{WEIGHTS_FILE}") else weights
    return folder if (folder / RECORD_FILE).exists() else None


def _encoder(weights: Path) -> Path:
    return weights / _ENCODER_FILE if weights.is_dir() else weights


def _header(encoder: Path) -> dict[str, str]:
    """Metadata of a safetensors file; empty if it cannot be opened, as reading the weights then raises the error."""
    if encoder.suffix != ".safetensors" or not encoder.is_file():
        return {}
    try:
        with safe_open(encoder, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        return {}
    try:
        return metadata | json.loads(metadata.get(_OF_BUNDLE, "{}"))
    except (ValueError, TypeError) as error:
        raise CohortError("its memory of the patients it was trained on is damaged", where=encoder) from error


def _beside(encoder: Path) -> SourceLock | None:
    lock = encoder.with_name(SOURCE_LOCK_FILE)
    return SourceLock.read(lock) if encoder.name == _ENCODER_FILE and lock.is_file() else None


def _embedded_lock(encoder: Path) -> SourceLock | None:
    """The source lock in the file's own metadata."""
    header = _header(encoder)
    if LOCK_METADATA in header:
        return SourceLock.parse(header[LOCK_METADATA], encoder)
    if "source_scans" not in header:  # encoders distilled before locks existed list only their scans
        return None
    try:
        return SourceLock.of(set(), set(json.loads(header["source_scans"])))
    except (ValueError, TypeError) as error:
        raise CohortError("its list of source scans is damaged", where=encoder) from error
