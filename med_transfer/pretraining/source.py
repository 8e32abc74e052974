"""The source of a pretraining: unlabelled scans, read once, in one orientation, remembered by content."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from med_transfer import geometry
from med_transfer.errors import NotAScan, ScanNotFound
from med_transfer.scans import Volume

SPACE_MM = 10.0  # air kept around the body
BODY_HU = -500.0
RANGE_HU = (-1024, 3071)  # 12-bit CT; what lies beyond is padding or metal


@dataclass(frozen=True)
class SourceScan:
    """One scan, array axes growing to Superior, Posterior, Left.

    Attributes:
        voxels: int16 HU [depth, height, width].
        spacing_mm: along depth, height, width.
        content_hash: of the scan as it was read (``Volume.content_hash``), before anything here was done to it.
    """

    voxels: NDArray[np.int16]
    spacing_mm: tuple[float, float, float]
    content_hash: str


@dataclass(frozen=True)
class SourceScans:
    """The scans of one pretraining."""

    scans: tuple[SourceScan, ...]

    def __len__(self) -> int:
        return len(self.scans)

    @property
    def content_hashes(self) -> tuple[str, ...]:
        return tuple(scan.content_hash for scan in self.scans)

    @classmethod
    def from_volumes(cls, volumes: Iterable[Volume], spacing_mm: float = 1.0) -> SourceScans:
        """Prepare volumes; a scan that occurs twice is kept once.

        Raises:
            ScanNotFound: there is no volume at all.
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
        """Write everything to one compressed file (``.npz``) that :meth:`load` reads."""
        arrays = {f"voxels_{n}": scan.voxels for n, scan in enumerate(self.scans)}
        index = [{"spacing_mm": scan.spacing_mm, "content_hash": scan.content_hash} for scan in self.scans]
        part = path.with_suffix(".part.npz")
        np.savez_compressed(part, index=np.array(json.dumps(index)), **arrays)  # type: ignore[arg-type]
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> SourceScans:
        """Read what :meth:`save` wrote.

        Raises:
            ScanNotFound: no such file.
            NotAScan: the file is something else.
        """
        if not path.is_file():
            raise ScanNotFound("no such file", where=path)
        try:
            with np.load(path, allow_pickle=False) as file:
                index = json.loads(str(file["index"]))
                scans = [
                    SourceScan(file[f"voxels_{n}"], tuple(entry["spacing_mm"]), entry["content_hash"])
                    for n, entry in enumerate(index)
                ]
        except (KeyError, ValueError, OSError) as error:
            raise NotAScan(
                "not a file of source scans", where=path, expected="an .npz that med-transfer wrote"
            ) from error
        return cls(tuple(scans))


def prepare(volume: Volume, content_hash: str, spacing_mm: float) -> SourceScan:
    """Orient to SPL, bring voxels finer than ``spacing_mm`` to it, cut away the air around the body."""
    voxels, affine = geometry.canonical(volume.voxels, volume.affine)
    width, height, depth = geometry.spacing_mm(affine)
    voxels, spacing = _coarsen(voxels, (depth, height, width), spacing_mm)
    voxels = np.clip(np.rint(voxels), *RANGE_HU).astype(np.int16)
    return SourceScan(np.ascontiguousarray(_around_body(voxels, spacing)), spacing, content_hash)


def _coarsen(
    voxels: NDArray, spacing: tuple[float, float, float], least_mm: float
) -> tuple[NDArray, tuple[float, float, float]]:
    """Low-pass and resample the axes that are finer than ``least_mm``; nothing is gained by refining the others."""
    target = [
        max(1, round(n * mm / least_mm)) if mm < least_mm else n for n, mm in zip(voxels.shape, spacing, strict=True)
    ]
    ratio = [n / m for n, m in zip(voxels.shape, target, strict=True)]
    if max(ratio) > 1:
        smooth = ndimage.gaussian_filter(voxels.astype(np.float32), [(r - 1) / 2 for r in ratio], mode="nearest")
        voxels = np.asarray(ndimage.zoom(smooth, [1 / r for r in ratio], order=1, mode="nearest", grid_mode=True))
    depth, height, width = (mm * r for mm, r in zip(spacing, ratio, strict=True))
    return voxels, (depth, height, width)


def _around_body(voxels: NDArray, spacing: tuple[float, float, float]) -> NDArray:
    """The part of the array that holds the body and ``SPACE_MM`` around it; all of it when there is no body."""
    body = voxels > BODY_HU
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        inside = np.flatnonzero(body.mean(axis=others) > 0.001)
        if len(inside):
            space = round(SPACE_MM / spacing[axis])
            kept = slice(max(0, inside[0] - space), inside[-1] + 1 + space)
            voxels, body = (np.take(a, np.arange(a.shape[axis])[kept], axis) for a in (voxels, body))
    return voxels
