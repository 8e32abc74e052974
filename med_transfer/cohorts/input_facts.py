"""Facts of a scan as read, before resampling and windowing.

Input envelopes are learned from them, and a sample hash recognises the scans that a bundle was trained on.
"""

from __future__ import annotations

import hashlib

import numpy as np

from med_transfer.scans import Volume, geometry

INPUT_TEXTS = ("modality", "body_part", "plane")
INPUT_LENGTHS = ("column_mm", "row_mm", "slice_mm", "width_mm", "height_mm", "depth_mm")
INPUT_VALUES = ("value_p01", "value_p50", "value_p99")
_SLICES, _PIXELS = 16, 256  # at most 16 slices are used; in-plane steps leave about 256 pixels along each axis
_SAMPLED = 32  # at least this many voxels along each axis, where the scan has them
_BODY_PARTS = {"THORAX": "CHEST", "LUNG": "CHEST", "BRAIN": "HEAD", "SKULL": "HEAD"}  # synonyms
_PLANES = ("sagittal", "coronal", "axial")  # normal to left-right, front-back, feet-head
# Median absolute Laplacian (4 neighbours) of noise with standard deviation 1.
_LAPLACIAN_OF_NOISE = 0.6745 * np.sqrt(20)


def input_facts(volume: Volume) -> dict[str, str | float]:
    """Return modality and body part where stated, slice plane, spacing, field of view, intensities and noise.

    ``value_p01`` is the first percentile of the voxels, in HU for CT. ``noise`` is a standard deviation in the same
    unit, estimated from the median absolute in-plane Laplacian, which edges hardly affect; zeros are excluded, since
    they come from filled-in air. The direction of the stored axes is not a fact, as reading brings them to patient
    axes.
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
    """Return a SHA-256 like ``Volume.content_hash``, but of a coarse grid of voxels; a hundred times faster.

    Changes between the sampled voxels go unnoticed.
    """
    voxels, _ = geometry.canonical(volume.voxels, volume.affine)
    sample = voxels[tuple(slice(None, None, max(1, n // _SAMPLED)) for n in voxels.shape)]
    values = sample.astype(np.float32) + np.float32(0)  # removes -0.0; equal for float and int16 voxels
    return hashlib.sha256(repr(voxels.shape).encode() + values.tobytes()).hexdigest()
