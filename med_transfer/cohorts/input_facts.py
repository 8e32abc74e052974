"""A few facts of a scan as it was read, before any resampling or window: an input envelope is learned from them, and a
scan that a bundle has learned from is known again."""

from __future__ import annotations

import hashlib

import numpy as np

from med_transfer.scans import Volume, geometry

INPUT_TEXTS = ("modality", "body_part", "plane")
INPUT_LENGTHS = ("column_mm", "row_mm", "slice_mm", "width_mm", "height_mm", "depth_mm")
INPUT_VALUES = ("value_p01", "value_p50", "value_p99")
_SLICES, _PIXELS = 16, 256  # looked at, of any scan
_SAMPLED = 32  # voxels along each axis, at least, where there are so many
_BODY_PARTS = {"THORAX": "CHEST", "LUNG": "CHEST", "BRAIN": "HEAD", "SKULL": "HEAD"}  # other words for the same
_PLANES = ("sagittal", "coronal", "axial")  # across left-right, front-back, feet-head
_LAPLACIAN_OF_NOISE = 0.6745 * np.sqrt(
    20
)  # median absolute Laplacian (4 neighbours) of noise with standard deviation 1


def input_facts(volume: Volume) -> dict[str, str | float]:
    """Modality and body part where the file states them, plane of the slices, spacing, field of view, values and noise.

    ``value_p01`` is a percentile of the voxels, in HU for CT; ``noise`` a standard deviation in the same unit, of the
    in-plane Laplacian's median absolute value, which edges hardly move, where it is not 0 (air that was filled in).
    Which way the stored axes run is no fact: every reader brings them to the patient's.
    """
    spacing, size = geometry.spacing_mm(volume.affine), volume.voxels.shape[::-1]
    rows = np.unique(np.linspace(0, size[2] - 1, min(size[2], _SLICES)).astype(int))
    slices = volume.voxels[rows].astype(np.float32)
    steps = tuple(slice(None, None, max(1, n // _PIXELS)) for n in slices.shape[1:])
    low, middle, high = np.percentile(slices[:, *steps], (1, 50, 99))
    laplacian = 4 * slices[:, 1:-1, 1:-1]
    for shifted in (slices[:, :-2, 1:-1], slices[:, 2:, 1:-1], slices[:, 1:-1, :-2], slices[:, 1:-1, 2:]):
        laplacian -= shifted
    laplacian = np.abs(laplacian[laplacian != 0])
    body_part = volume.provenance.acquisition.get("BodyPartExamined", "").strip().upper()
    stated = {"modality": volume.provenance.modality, "body_part": _BODY_PARTS.get(body_part, body_part)}
    facts: dict[str, str | float] = {name: text for name, text in stated.items() if text}
    facts["plane"] = _PLANES[int(np.argmax(np.abs(volume.affine[:3, 2])))]
    lengths = (*spacing, *(mm * n for mm, n in zip(spacing, size, strict=True)))
    facts |= dict(zip((*INPUT_LENGTHS, *INPUT_VALUES), map(float, (*lengths, low, middle, high)), strict=True))
    return facts | {"noise": float(np.median(laplacian) / _LAPLACIAN_OF_NOISE) if laplacian.size else 0.0}


def sample_hash(volume: Volume) -> str:
    """As ``Volume.content_hash``, but of a grid of voxels, in a hundredth of its time; no change between them shows."""
    voxels, _ = geometry.canonical(volume.voxels, volume.affine)
    sample = voxels[tuple(slice(None, None, max(1, n // _SAMPLED)) for n in voxels.shape)]
    values = sample.astype(np.float32) + np.float32(0)  # no -0.0, and whole numbers as in int16
    return hashlib.sha256(repr(voxels.shape).encode() + values.tobytes()).hexdigest()
