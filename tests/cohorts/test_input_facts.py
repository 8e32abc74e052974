"""How a scan is recognised, in a hundredth of the time that its content hash takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
from tiny_bundle import write_scan

from med_transfer.cohorts.input_facts import sample_hash
from med_transfer.scans import Volume, read_scan
from med_transfer.scans.volume import Provenance


def test_a_scan_is_known_again_with_other_axes_in_another_format_and_in_floats(tmp_path):
    image = nibabel.load(write_scan(tmp_path / "a.nii"))
    nibabel.save(image.as_reoriented(np.array([[1, -1], [0, 1], [2, 1]])), tmp_path / "b.nii.gz")
    first, second, other = (
        read_scan(path) for path in (tmp_path / "a.nii", tmp_path / "b.nii.gz", write_scan(tmp_path / "c.nii", seed=1))
    )
    in_floats = replace(first, voxels=first.voxels.astype(np.float32))
    assert sample_hash(first) == sample_hash(second) == sample_hash(in_floats) != sample_hash(other)


def test_a_sample_is_of_voxels_all_over_the_scan():
    voxels = np.zeros((70, 130, 40), np.int16)
    changed = [voxels.copy() for _ in range(2)]
    changed[0][68, 128, 39] = changed[1][1, 0, 0] = 1
    plain, at_the_end, between = (
        sample_hash(Volume(one, np.eye(4), Provenance(Path("a.nii"), "nifti"))) for one in (voxels, *changed)
    )
    assert plain != at_the_end
    assert plain == between
