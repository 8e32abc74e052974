"""The region that the network sees: one from the cohort table, the body, an organ, or the whole scan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from med_transfer.errors import OrganNotFound, UnusableVoxels
from med_transfer.errors.sentence import Sentence
from med_transfer.preprocessing.config import PreprocessingConfig
from med_transfer.preprocessing.organs import Organ, find_organ
from med_transfer.preprocessing.window import foreground_threshold
from med_transfer.scans import Region, Volume, geometry

BODY_HU = -500.0  # between lung or air and soft tissue
MARGIN_MM = 4.0  # on each side of an organ's bounding box
_COARSE_MM = 6.0  # grid that is fine enough for the body's outline


def region_in_view(volume: Volume, config: PreprocessingConfig, region: Region | None) -> Region:
    """The region that the config selects, in LPS mm.

    Args:
        volume: the first channel's scan.
        config: its ``region`` is ``roi``, ``foreground``, an organ or ``whole``.
        region: from the cohort table; required for ``roi``, ignored otherwise.

    Raises:
        UnusableVoxels: ``roi`` without a region, or with one whose centre is outside the scan.
        OrganNotFound: the organ was not found.
    """
    if organ := organ_in_view(volume, config):
        width, height, depth = (mm + 2 * MARGIN_MM for mm in organ.region.size_mm)
        return Region(organ.region.centre_mm, (width, height, depth))
    if config.region == "whole":
        return whole(volume)
    if config.region == "foreground":
        by_zscores = config.by_channel[0].normalisation == "zscore"
        return foreground(volume, foreground_threshold(volume) if by_zscores else BODY_HU)
    if region is None:
        raise UnusableVoxels(
            "no region of interest",
            where=volume.provenance.path,
            expected="roi_x_mm, roi_y_mm, roi_z_mm or a mask, as in training",
            action="Add them to the table, state them with the scan (--mask or --roi; mask= or region= in Python), or "
            "train with input.region: whole or foreground",
        )
    if not geometry.inside(volume.affine, volume.voxels.shape, region.centre_mm):
        raise UnusableVoxels(
            Sentence(
                "region of interest at {centre_mm} mm lies outside the scan",
                centre_mm=str(tuple(round(mm, 1) for mm in region.centre_mm)),
            ),
            where=volume.provenance.path,
            expected="a point inside, in DICOM patient coordinates (LPS)",
            action="RAS coordinates (NIfTI, 3D Slicer) need the sign of x and y changed",
        )
    return region


def organ_in_view(volume: Volume, config: PreprocessingConfig) -> Organ | None:
    """The organ that the config selects; None if it selects another region. Raises OrganNotFound."""
    if config.region in ("roi", "foreground", "whole"):
        return None
    found = find_organ(volume, config.region)
    if isinstance(found, Organ):
        return found
    raise OrganNotFound(
        Sentence("{organ} not found ({reason})", organ=found.organ, reason=found.reason),
        where=volume.provenance.path,
        expected=found.expected,
        action="Leave the scan out, or train with input.region: foreground, whole, or roi with a region or mask",
    )


def isolated_organ(volume: Volume, config: PreprocessingConfig, region: Region | None) -> Organ | None:
    """The organ or mask outside which everything is hidden; None unless the config sets ``isolate``.

    Raises:
        OrganNotFound: see :func:`organ_in_view`.
        UnusableVoxels: the table has no mask.
    """
    if not config.isolate:
        return None
    if config.region != "roi":
        return organ_in_view(volume, config)
    if region is None or region.mask is None:
        raise UnusableVoxels(
            "no mask",
            where=volume.provenance.path,
            expected="a mask, as in training, since input.isolate shows nothing else",
            action="Add the column mask to the table, or train with input.isolate: false",
        )
    return Organ(region.mask.voxels != 0, region.mask.affine)


def whole(volume: Volume) -> Region:
    """Bounding box of the whole scan, in LPS mm."""
    return _box(volume.affine, np.zeros(3), np.array(volume.voxels.shape[::-1]) - 1)


def foreground(volume: Volume, above: float = BODY_HU) -> Region:
    """Bounding box in LPS mm of the largest connected component of values above ``above``; of the scan if none is.

    Args:
        volume: the scan.
        above: threshold in the scan's unit.
    """
    voxels, affine = geometry.canonical(volume.voxels, volume.affine)  # so that flipped files give the same box
    steps = [max(1, round(_COARSE_MM / mm)) for mm in reversed(geometry.spacing_mm(affine))]
    coarse = voxels[:: steps[0], :: steps[1], :: steps[2]] > above
    parts: NDArray[np.integer] = np.asarray(measure.label(coarse, connectivity=1))  # separates the table from the body
    if not parts.any():
        return whole(volume)
    body = np.argmax(np.bincount(parts.ravel())[1:])
    slices = ndimage.find_objects(parts)[body]
    first = np.array([s.start * step for s, step in zip(slices, steps, strict=True)])[::-1]
    last = np.array([(s.stop - 1) * step for s, step in zip(slices, steps, strict=True)])[::-1]
    return _box(affine, first, last)


def _box(affine: geometry.Affine, first_ijk: NDArray, last_ijk: NDArray) -> Region:
    low, high = geometry.box_mm(affine, first_ijk, last_ijk)
    x, y, z = (float(mm) for mm in (low + high) / 2)
    width, height, depth = (float(mm) for mm in high - low)
    return Region((x, y, z), (width, height, depth))
