"""Values that are not Hounsfield units are recognised by the values of air and body; plain CT never is."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from med_transfer.scans import read_scan
from med_transfer.scans.voxel_checks import hounsfield_doubt


def body(air: float = -1000, tissue: float = 40, noise: float = 12, seed: int = 0) -> np.ndarray:
    """A cylinder of soft tissue with fat around it and two lungs in it, in air."""
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    plane = np.full((96, 96), air)
    plane[np.hypot(x, y) < 0.85] = tissue - 140
    plane[np.hypot(x, y) < 0.75] = tissue
    plane[np.hypot(abs(x) - 0.35, y) < 0.22] = air + 150
    noisy = plane + np.random.default_rng(seed).normal(0, noise, (20, 96, 96))
    return np.rint(noisy).astype(np.int16)


@pytest.mark.parametrize(
    ("low", "high", "doubted"),
    [
        (-1024, 1500, False),
        (-935, -499, False),
        (-1000, -701, True),  # air only
        (0, 4095, True),  # stored values, never rescaled
        (-1, 80, False),
        (301, 900, True),
        (-1, 1, True),  # scaled for a network before it was saved
        (-3.5, 9.25, True),  # z-scores
        (-3, 30, False),  # water
        (-1024, 31743, False),  # metal, where 16 bits are used
        (-64, 99896, True),  # a slope that is too large
        (-1.5e33, 1.5e33, True),
    ],
)
def test_impossible_ranges(low, high, doubted):
    sentence = hounsfield_doubt(np.array([[[low, high]]], np.float64))
    assert sentence == (f"values do not look like Hounsfield units (from {low} to {high})" if doubted else "")


def test_plain_ct_is_not_doubted():
    assert hounsfield_doubt(body()) == ""


def test_a_crop_of_soft_tissue_alone_is_not_doubted():
    assert hounsfield_doubt(body()[:, 40:56, 44:52]) == ""


def test_padding_outside_the_circle_is_not_taken_for_air():
    padded = body()
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    padded[:, np.hypot(x, y) > 0.99] = -2048
    assert hounsfield_doubt(padded) == ""
    padded[:, np.hypot(x, y) > 0.99] = -3024
    assert hounsfield_doubt(padded) == ""


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda hu: hu + 1024 - 100, r"air lies near -?\d+ and the body near 9\d\d, not near -1000 and 40 HU"),
        (lambda hu: hu - 1024, r"values do not look like Hounsfield units \(from -20\d\d to -9\d\d\)"),
        (lambda hu: hu - 500, r"air lies near -1[45]\d\d and the body near -4\d\d"),
        (lambda hu: hu + 300, r"air lies near -[67]\d\d and the body near 3\d\d"),
        (lambda hu: hu // 2, r"air lies near -[45]\d\d and the body near \d\d"),
        (lambda hu: -hu, "values look inverted"),
        (lambda hu: 1000 - hu, "values look inverted"),
        (lambda hu: hu + 1024 + 100, "values do not look like Hounsfield units"),
    ],
    ids=[
        *("intercept missing", "intercept twice", "intercept too low", "shifted", "slope halved"),
        *("negated", "monochrome1", "stored values"),
    ],
)
def test_wrong_rescale_is_said(wrong, words):
    assert re.search(words, hounsfield_doubt(wrong(body())))


@pytest.mark.real_data
@pytest.mark.skipif("MED_TRANSFER_DATA" not in os.environ, reason="MED_TRANSFER_DATA names no folder of real scans")
def test_real_ct_is_not_doubted_and_its_shifted_twin_is():
    folder = Path(os.environ["MED_TRANSFER_DATA"])
    scans = [folder / "dicom" / "ct_abdomen_crlm_1004" / "image", *sorted((folder / "sts_ct").glob("*.nii.gz"))[:3]]
    for scan in scans:
        hu = read_scan(scan).voxels.astype(np.int32)
        assert hounsfield_doubt(hu) == ""
        assert all(hounsfield_doubt(wrong) for wrong in (hu + 1024, hu - 1024, -hu))
