"""Example cohorts by name: phantoms, which are generated offline, and small public data sets, which are downloaded.

>>> import med_transfer as mt
>>> table = mt.datasets.fetch("phantoms", "work/chest")            # doctest: +SKIP
>>> table = mt.datasets.fetch("nodulemnist3d", "work/nodules")     # doctest: +SKIP

The public sets are those of MedMNIST3D with 28 x 28 x 28 voxels (Yang et al., Scientific Data 10:41, 2023;
doi:10.5281/zenodo.10519652): grey values 0 to 255 without a unit or voxel size, and without patient identifiers. Each
scan is listed as a patient of its own. Several may come from one patient, so a split made here may be optimistic; the
published split is in the column ``split``. Use them with ``input.region=whole``.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.atomic.csv_table import write_csv
from med_transfer.backbones.weights.download import DownloadFailed, download_file
from med_transfer.cohorts.sheet import read_sheet
from med_transfer.errors import CohortError, DatasetNotFound, OutputError, given_path
from med_transfer.phantoms import PhantomConfig, write_cohort, write_nifti
from med_transfer.progress import Progress, bars_unless, named

PHANTOMS = "phantoms"
_PHANTOMS = PhantomConfig(
    seed=2, patients_per_class=12, shape=(24, 72, 72), difficulty=0.2, format="mixed", faults=True
)  # small enough to read and train on in seconds
_ADDRESS = "https://zenodo.org/records/10519652/files"
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Dataset:
    """One public data set.

    Attributes:
        md5: checksum of the file as published by MedMNIST.
        labels: class names; the position is the numeric label in the file.
        licence: licence under which the authors publish the data.
        address: URL of the folder that holds the file.
    """

    md5: str
    labels: tuple[str, ...]
    licence: str = "CC BY 4.0"
    address: str = _ADDRESS


PUBLIC = {
    "nodulemnist3d": Dataset("8755a7e9e05a4d9ce80a24c3e7a256f3", ("benign", "malignant")),
    "fracturemnist3d": Dataset(
        "6aa7b0143a6b42da40027a9dda61302f",
        ("buckle rib fracture", "nondisplaced rib fracture", "displaced rib fracture"),
    ),
    "adrenalmnist3d": Dataset("bbd3c5a5576322bc4cdfea780653b1ce", ("normal", "hyperplasia")),
    "vesselmnist3d": Dataset("b41fd4f7e7e2feedddb201585ecafa1b", ("vessel", "aneurysm")),
}


def names() -> tuple[str, ...]:
    """Return the names that :func:`fetch` accepts."""
    return (PHANTOMS, *PUBLIC)


def fetch(name: str, folder: Path | str, progress: Progress | None = None) -> Path:
    """Return the path of a cohort's table in ``folder``, generating or downloading the cohort on the first call.

    Args:
        name: one of :func:`names`.
        folder: folder for ``cohort.csv`` and its scans; new, empty, or from an earlier call.
        progress: progress callback; None shows bars in a terminal or notebook.

    Raises:
        DatasetNotFound: the name is unknown, the download failed, or the file is not the published one.
        OutputError: the folder holds something else, or cannot be written.
    """
    if name not in names():
        raise DatasetNotFound("no such data set", where=name, expected=f"one of {', '.join(names())}")
    folder = given_path(folder, "folder", "a folder for the cohort").absolute()
    table, file = folder / "cohort.csv", folder / f"{name}.npz"
    others = [other for other in PUBLIC if other != name and (folder / f"{other}.npz").exists()]
    if others:
        raise OutputError(f"holds {others[0]}", where=folder, expected=f"a folder for {name} alone")
    if table.exists():
        _require_own(table, name)
        return table
    with bars_unless(progress) as progress:
        if name == PHANTOMS:
            return write_cohort(folder, _PHANTOMS, named(progress, name))
        if not file.exists():
            _download(f"{PUBLIC[name].address}/{file.name}", file, named(progress, name))
        _check(file, PUBLIC[name])
        _write(table, file, PUBLIC[name], named(progress, name))
        return table


def _require_own(table: Path, name: str) -> None:
    """Raise OutputError if the table in the folder is not the cohort of this name."""
    try:
        sheet = read_sheet(table)
        labels = {row.get("label") for row in sheet.rows}
        own = sheet.columns == _PHANTOMS.columns if name == PHANTOMS else labels == set(PUBLIC[name].labels)
    except CohortError:
        own = False
    if not own:
        raise OutputError("another cohort is there", where=table, expected=f"a folder for {name} alone")


def _download(url: str, file: Path, progress: Progress) -> None:
    try:
        download_file(url, file, progress)
    except DownloadFailed as error:
        raise DatasetNotFound(
            f"cannot be downloaded ({error})",
            where=url,
            action=f"Fetch it on a machine with a connection and put it into {file.parent}",
        ) from error


def _check(file: Path, dataset: Dataset) -> None:
    with file.open("rb") as content:
        found = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != dataset.md5:
        raise DatasetNotFound(
            f"MD5 {found}", where=file, expected=dataset.md5, action="Remove it and download it again"
        )


def _write(table: Path, file: Path, dataset: Dataset, progress: Progress) -> None:
    """Write the scans, then the table, so that an interrupted call leaves no table of an incomplete cohort."""
    rows = []
    for split, voxels, label in _scans(file):
        name = f"{split}-{len(rows):04d}"
        scan = write_nifti(table.parent / "scans" / f"{name}.nii.gz", voxels, np.eye(4))
        relative = scan.relative_to(table.parent).as_posix()
        rows.append({"scan": relative, "patient": name, "label": dataset.labels[label], "split": split})
        progress("writing scans", len(rows), 0)
    write_csv(table, list(rows[0]), rows)


def _scans(file: Path) -> Iterator[tuple[str, NDArray[np.int16], int]]:
    """Yield split, grey values [depth, height, width] and class index of each scan. Raises DatasetNotFound."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            for split in _SPLITS:
                images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
                for image, label in zip(images, labels.ravel(), strict=True):
                    yield split, image.astype(np.int16), int(label)
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DatasetNotFound(f"is no such file ({type(error).__name__})", where=file) from error
