"""How a scan is recognised in another file, folder or format, and what it displays."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from med_transfer.scans import Provenance, Volume

VOXELS = np.arange(-12, 12, dtype=np.int16).reshape(2, 3, 4)
LPS = np.diag([0.7, 0.9, 2.5, 1.0])


def volume(voxels: NDArray, affine: NDArray = LPS, **provenance) -> Volume:
    return Volume(voxels, affine, Provenance(Path("scan.nii"), "nifti", **provenance))


def test_the_hash_is_of_type_shape_and_voxels_in_lps_order():
    """Bundles and locks of earlier versions hold such hashes: another one would find no scan again."""
    expected = hashlib.sha256(b"('<i2', (2, 3, 4))" + VOXELS.astype("<i2").tobytes()).hexdigest()
    assert volume(VOXELS).content_hash == expected
    flipped = LPS @ np.diag([-1.0, 1.0, -1.0, 1.0])  # i to the right, k to the feet
    assert volume(VOXELS[::-1, :, ::-1], flipped).content_hash == expected
    turned = LPS[:, [2, 1, 0, 3]]  # i to the head, k to the left
    assert volume(VOXELS.transpose(2, 1, 0), turned).content_hash == expected
    assert volume(VOXELS.astype(np.float32), modality="CT").content_hash == expected
    assert volume(VOXELS.astype(np.int32), 2 * LPS).content_hash == expected  # positions do not count


@pytest.mark.parametrize("extreme", [-32768, 32767])
def test_whole_numbers_that_int16_holds_are_hashed_as_such(extreme):
    voxels = VOXELS.copy()
    voxels[0, 1, 2] = extreme
    assert volume(voxels.astype(np.float64)).content_hash == volume(voxels).content_hash


def test_every_voxel_counts():
    hashes = {volume(VOXELS).content_hash, volume(VOXELS.reshape(3, 2, 4)).content_hash}
    for change in (1, 0.25, 32768, -32800):  # the last two beyond int16
        for place in ((0, 0, 0), (1, 2, 3)):
            voxels = VOXELS.astype(np.float32)
            voxels[place] += change
            hashes.add(volume(voxels).content_hash)
    assert len(hashes) == 10


def test_a_volume_shows_its_size_in_array_order_and_no_voxel():
    assert repr(volume(VOXELS)) == "Volume(2 x 3 x 4 voxels of 2.5 x 0.9 x 0.7 mm, LPS, accept)"
