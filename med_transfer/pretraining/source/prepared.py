"""Source scans on disk as memory-mapped arrays: each scan is read once, and a source may be larger than memory.

::

    OUT/prepared/
      <key>.json              one scan: spacing, hashes, centre of its region, names of the arrays
      <key>.voxels.npy        int16 HU; scans with equal voxels and spacing share one file
      <key>.mask.npy          uint8
      <key>.places.npz        crop centres
      salt                    of the patients' hashes
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from med_transfer.atomic import atomic_path, write_text
from med_transfer.cohorts.left_behind import DAMAGED, sealed, unsealed
from med_transfer.errors import UnusableVoxels
from med_transfer.pretraining.source.crop_centres import CropCentres, find_crop_centres
from med_transfer.pretraining.source.scans import SourceScan


def cached_scan(folder: Path, key: str, make: Callable[[], SourceScan], where: object) -> SourceScan:
    """The scan that ``make`` returns, cached in ``folder`` under this key; its arrays are memory-mapped from there.

    Damaged entries are made again. Passes on whatever ``make`` raises.

    Args:
        where: the scan's place, for the error.

    Raises:
        UnusableVoxels: the scan has no structure to learn from.
        OutputError: the folder cannot be written.
    """
    record = folder / f"{key}.json"
    if record.exists():
        with suppress(*DAMAGED):
            return _read(folder, record)
    scan = make()
    centres = scan.crop_centres or find_crop_centres(scan.voxels, scan.spacing_mm)
    if not centres and scan.centre is None:
        raise UnusableVoxels("nothing but air or uniform matter", where=where, expected="a body in Hounsfield units")
    _write(folder, key, scan, centres, anew=record.exists())
    return _read(folder, record)


def _write(folder: Path, key: str, scan: SourceScan, centres: CropCentres, *, anew: bool) -> None:
    voxels = f"{_digest(scan.content_hash, scan.spacing_mm, scan.voxels.shape)}.voxels.npy"
    if anew or not (folder / voxels).exists():
        _save_array(folder / voxels, scan.voxels)
    mask = None
    if scan.mask is not None:
        mask = f"{key}.mask.npy"
        _save_array(folder / mask, scan.mask)
    with atomic_path(folder / f"{key}.places.npz") as temporary:
        np.savez(temporary, lung=centres.lung, tissue=centres.tissue)
    record = {
        "spacing_mm": scan.spacing_mm,
        "content_hash": scan.content_hash,
        "patient_hash": scan.patient_hash,
        "centre": scan.centre,
        "voxels": voxels,
        "mask": mask,
    }
    write_text(folder / f"{key}.json", json.dumps(sealed(record)))  # last, as a sign that all other files are complete


def _read(folder: Path, path: Path) -> SourceScan:
    record = unsealed(json.loads(path.read_text(encoding="utf-8")))
    places = path.with_suffix(".places.npz")
    with places.open("rb") as stream, np.load(stream, allow_pickle=False) as file:  # NumPy leaves damaged files open
        centres = CropCentres(file["lung"], file["tissue"])
    return SourceScan(
        voxels=_mapped(folder / record["voxels"]),
        spacing_mm=tuple(record["spacing_mm"]),
        content_hash=record["content_hash"],
        patient_hash=record["patient_hash"],
        crop_centres=centres,
        mask=_mapped(folder / record["mask"]) if record["mask"] else None,
        centre=tuple(record["centre"]) if record["centre"] else None,
    )


def _mapped(path: Path) -> NDArray:
    """Map an array file read-only. NumPy's own mapping keeps the file open, and open files are limited."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
    whole = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8).numpy()
    array = whole[start:].view(dtype).reshape(shape)
    array.flags.writeable = False
    return array


def _save_array(path: Path, array: NDArray) -> None:
    with atomic_path(path) as temporary:
        np.save(temporary, np.ascontiguousarray(array))


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
