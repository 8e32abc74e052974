"""The source of a pretraining: scans in one orientation, identified by hashes of content and patient."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from med_transfer.atomic import atomic_path
from med_transfer.errors import ConfigError, NotAScan, ScanNotFound
from med_transfer.errors.numbers import counted
from med_transfer.predictions.labels import Labels
from med_transfer.pretraining.source.crop_centres import CropCentres
from med_transfer.scans import Volume, geometry
from med_transfer.scans.volume import bytes_of

SPACE_MM = 10.0  # air kept around the body
BODY_HU = -500.0
RANGE_HU = (-1024, 3071)  # 12-bit CT; values beyond are padding or metal


@dataclass(frozen=True)
class SourceScan:
    """One scan, with array axes pointing to Superior, Posterior, Left.

    Attributes:
        voxels: int16 HU [depth, height, width]; may be memory-mapped from a file.
        spacing_mm: along depth, height, width.
        content_hash: of the scan as read (``Volume.content_hash``), before any processing here.
        patient_hash: see ``cohorts.hashed_names``; empty if the patient is unknown.
        crop_centres: worthwhile centres of crops; None if not searched yet.
        mask: uint8 [depth, height, width], share of the voxel inside the table's mask times 255.
        centre: voxel index (z, y, x) of the centre of the table's region of interest.
        label: from the table.
    """

    voxels: NDArray[np.int16]
    spacing_mm: tuple[float, float, float]
    content_hash: str
    patient_hash: str = ""
    crop_centres: CropCentres | None = None
    mask: NDArray[np.uint8] | None = None
    centre: tuple[float, float, float] | None = None
    label: str | frozenset[str] | None = None


@dataclass(frozen=True)
class SourceScans:
    """The scans of one pretraining, and the classes of their labels if they have any."""

    scans: tuple[SourceScan, ...]
    labels: Labels | None = None

    def __len__(self) -> int:
        return len(self.scans)

    @property
    def content_hashes(self) -> tuple[str, ...]:
        """Content hash of each scan, in order."""
        return tuple(scan.content_hash for scan in self.scans)

    @property
    def patient_hashes(self) -> tuple[str, ...]:
        """Hashes of the known patients, unique and sorted."""
        return tuple(sorted({scan.patient_hash for scan in self.scans} - {""}))

    @property
    def taught(self) -> tuple[str, ...]:
        """Sorted hashes of label, region and mask, one for each scan that has any; a checkpoint depends on them."""
        return tuple(sorted(_taught(scan) for scan in self.scans if _has_target(scan)))

    @property
    def nbytes(self) -> int:
        """Size of all voxels in bytes."""
        return sum(scan.voxels.nbytes for scan in self.scans)

    @classmethod
    def from_volumes(cls, volumes: Iterable[Volume], spacing_mm: float = 1.0) -> SourceScans:
        """Prepare volumes; duplicates are kept once.

        Raises:
            ScanNotFound: there is no volume.
        """
        unique: dict[str, SourceScan] = {}
        for volume in volumes:
            content_hash = volume.content_hash
            if content_hash not in unique:
                unique[content_hash] = prepare(volume, content_hash, spacing_mm)
        if not unique:
            raise ScanNotFound("no scan to learn from", expected="at least one CT scan of acceptable geometry")
        return cls(tuple(unique.values()))

    def save(self, path: Path) -> None:
        """Write voxels and hashes, without labels, to a compressed file (``.npz``) that :meth:`load` reads.

        Raises:
            OutputError: the file cannot be written.
        """
        arrays = {f"voxels_{n}": scan.voxels for n, scan in enumerate(self.scans)}
        keys = ("spacing_mm", "content_hash", "patient_hash")
        index = [{key: getattr(scan, key) for key in keys} for scan in self.scans]
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, index=np.array(json.dumps(index)), **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> SourceScans:
        """Read a file that :meth:`save` wrote. Raises as :func:`stored_scans`."""
        return cls(tuple(read() for read in stored_scans(path)))

    def split(self, validation_scans: int) -> tuple[SourceScans, SourceScans | None]:
        """Split into training scans and validation scans (None if ``validation_scans`` is 0).

        Whole patients are kept out, the first by content hash, until there are at least ``validation_scans`` scans; the
        result does not depend on the order of the scans.

        Raises:
            ConfigError: no training scan would be left.
        """
        if validation_scans == 0:
            return self, None
        patients: dict[str, list[SourceScan]] = {}
        for scan in sorted(self.scans, key=lambda scan: scan.content_hash):
            patients.setdefault(scan.patient_hash or scan.content_hash, []).append(scan)
        kept_out: list[SourceScan] = []
        training: list[SourceScan] = []
        for scans in patients.values():
            (kept_out if len(kept_out) < validation_scans else training).extend(scans)
        if not training:
            raise ConfigError(
                f"{counted(len(self), 'source scan')} of {counted(len(patients), 'patient')}, "
                f"{validation_scans} of them for validation",
                where="validation_scans",
                expected="something left to learn from",
                action="Give more scans, or set validation_scans lower (0 measures nothing)",
            )
        return SourceScans(tuple(training), self.labels), SourceScans(tuple(kept_out), self.labels)


def _has_target(scan: SourceScan) -> bool:
    return scan.label is not None or scan.centre is not None or scan.mask is not None


def _taught(scan: SourceScan) -> str:
    label = sorted(scan.label) if isinstance(scan.label, frozenset) else scan.label
    digest = hashlib.sha256(repr((scan.content_hash, label, scan.centre)).encode())
    if scan.mask is not None:
        digest.update(bytes_of(scan.mask))
    return digest.hexdigest()


def stored_scans(path: Path) -> tuple[Callable[[], SourceScan], ...]:
    """For each scan of a file that ``SourceScans.save`` wrote, a function that reads this scan alone.

    Raises:
        ScanNotFound: the file does not exist.
        NotAScan: the file is something else.
    """
    if not path.is_file():
        raise ScanNotFound("no such file", where=path)
    with _explain_damage(path), np.load(path, allow_pickle=False) as file:
        index = json.loads(str(file["index"]))
    return tuple(partial(_stored_scan, path, n, entry) for n, entry in enumerate(index))


def _stored_scan(path: Path, number: int, entry: dict) -> SourceScan:
    with _explain_damage(path), np.load(path, allow_pickle=False) as file:
        spacing = tuple(entry["spacing_mm"])
        return SourceScan(file[f"voxels_{number}"], spacing, entry["content_hash"], entry.get("patient_hash", ""))


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, ValueError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise NotAScan("not a file of source scans", where=path, expected="an .npz that med-transfer wrote") from error


def prepare(
    volume: Volume,
    content_hash: str,
    spacing_mm: float,
    mask: Volume | None = None,
    centre_mm: tuple[float, float, float] | None = None,
) -> SourceScan:
    """Orient to SPL, resample axes finer than ``spacing_mm`` to it, and crop the air around the body.

    Args:
        volume: in HU.
        content_hash: of the volume.
        mask: on the volume's grid.
        centre_mm: centre of a region of interest, in LPS mm.
    """
    voxels, affine = geometry.canonical(volume.voxels, volume.affine)
    width, height, depth = geometry.spacing_mm(affine)
    voxels, ratio = _coarsen(voxels, (depth, height, width), spacing_mm)
    spacing = (depth * ratio[0], height * ratio[1], width * ratio[2])
    voxels = np.clip(np.rint(voxels), *RANGE_HU).astype(np.int16)
    box = _around_body(voxels, spacing)
    inside = None
    if mask is not None:
        share, _ = _coarsen(geometry.canonical(mask.voxels, mask.affine)[0], (depth, height, width), spacing_mm)
        inside = np.ascontiguousarray(np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)[box])
    centre = None
    if centre_mm is not None:
        index = geometry.to_index(affine, centre_mm)[::-1]
        z, y, x = ((i + 0.5) / r - 0.5 - part.start for i, r, part in zip(index, ratio, box, strict=True))
        centre = (float(z), float(y), float(x))
    return SourceScan(np.ascontiguousarray(voxels[box]), spacing, content_hash, mask=inside, centre=centre)


def _coarsen(
    voxels: NDArray, spacing: tuple[float, float, float], least_mm: float
) -> tuple[NDArray, tuple[float, float, float]]:
    """Low-pass filter and resample the axes that are finer than ``least_mm``; others are kept as they are.

    Also returns the number of old voxels per new voxel along each axis.
    """
    target = [
        max(1, round(n * mm / least_mm)) if mm < least_mm else n for n, mm in zip(voxels.shape, spacing, strict=True)
    ]
    depth, height, width = (n / m for n, m in zip(voxels.shape, target, strict=True))
    ratio = (depth, height, width)
    if max(ratio) > 1:
        smooth = ndimage.gaussian_filter(voxels.astype(np.float32), [(r - 1) / 2 for r in ratio], mode="nearest")
        voxels = np.asarray(ndimage.zoom(smooth, [1 / r for r in ratio], order=1, mode="nearest", grid_mode=True))
    return voxels, ratio


def _around_body(voxels: NDArray, spacing: tuple[float, float, float]) -> tuple[slice, slice, slice]:
    """The box around the body with a margin of ``SPACE_MM``; the whole array if there is no body."""
    box = [slice(0, n) for n in voxels.shape]
    body = voxels > BODY_HU
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        inside = np.flatnonzero(body[tuple(box)].mean(axis=others) > 0.001)
        if len(inside):
            space = round(SPACE_MM / spacing[axis])
            box[axis] = slice(max(0, int(inside[0]) - space), min(voxels.shape[axis], int(inside[-1]) + 1 + space))
    return box[0], box[1], box[2]
