"""Only what the table's mask covers is seen, and pooled."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from med_transfer.backbones import Encoder
from med_transfer.backbones.networks.tiles import TileEncoder
from med_transfer.cohorts import Cohort, prepare_scan
from med_transfer.errors import InputRejected, UnusableVoxels
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.preprocessing.config import ChannelConfig
from med_transfer.scans import Provenance, Region, Volume, read_scan, region_of_mask

SIDE = 32
INSIDE = (slice(8, 24), slice(8, 16), slice(8, 24))  # depth, height, width
CONFIG = PreprocessingConfig(
    shape=(SIDE,) * 3, spacing_mm=(1, 1, 1), region="roi", isolate=True, window_hu=(0, 100), outside="floor"
)


class ItsVoxels(Encoder):
    """The scan itself is the only map."""

    stage_channels = (1,)

    def stages(self) -> list[nn.Module]:
        return [nn.Identity()]

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x]


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Tissue of 40 to 90 HU; the mask is a box about the scan's middle, but for its height."""
    voxels = np.random.default_rng(0).integers(40, 90, (SIDE,) * 3).astype(np.int16)
    mask = np.zeros((SIDE,) * 3, np.uint8)
    mask[INSIDE] = 1
    for name, array in {"scan": voxels, "mask": mask, "full": np.ones_like(mask)}.items():
        nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), np.diag([-1.0, -1, 1, 1])), tmp_path / f"{name}.nii.gz")
    rows = "scan.nii.gz,one,a,mask.nii.gz\nscan.nii.gz,two,b,full.nii.gz"
    (tmp_path / "cohort.csv").write_text(f"scan,patient,label,mask\n{rows}")
    return Cohort.read(tmp_path / "cohort.csv")


def prepared(cohort: Cohort, case: int, **changes) -> np.ndarray:
    config = CONFIG.model_copy(update=changes)
    return prepare_scan(cohort.cases[case], Preprocessing(config)).tensor.astype(np.float32)


def test_what_the_mask_leaves_out_is_the_lower_end_of_the_window_and_the_rest_is_as_it_was(cohort):
    alone, everything = prepared(cohort, 0), prepared(cohort, 0, isolate=False)
    inside = alone != -1
    assert inside.sum() == 16 * 8 * 16
    np.testing.assert_array_equal(alone[inside], everything[inside])
    np.testing.assert_array_equal(prepared(cohort, 1), prepared(cohort, 1, isolate=False))


def alone(voxels: np.ndarray) -> np.ndarray:
    """By z-scores, coarser than the scan."""
    affine, path = np.diag([1.0, 1, 1, 1]), Provenance(Path("scan"), "nifti")
    mask = np.zeros(voxels.shape, np.int16)
    mask[INSIDE] = 1
    config = CONFIG.model_copy(update={"normalisation": "zscore", "spacing_mm": (3.0, 3.0, 3.0), "shape": (8, 8, 8)})
    return Preprocessing(config).image(Volume(voxels, affine, path), region_of_mask(Volume(mask, affine, path)))


def test_what_a_mask_leaves_out_is_the_same_in_any_unit():
    voxels = np.random.default_rng(0).integers(1, 90, (SIDE,) * 3).astype(np.float32)
    np.testing.assert_allclose(alone(voxels * np.float32(1e-5)), alone(voxels), atol=2e-3)


def test_a_window_that_begins_below_what_16_bits_hold():
    drawn = np.random.default_rng(0).uniform(size=(SIDE,) * 3)
    voxels = np.select([drawn < 0.01, drawn < 0.1, drawn < 0.6], [0, 100, 6000], 32000).astype(np.int16)
    np.testing.assert_allclose(alone(voxels), alone(voxels.astype(np.float32)), atol=2e-3)


TWO = CONFIG.model_copy(update={"channels": tuple(map(ChannelConfig.model_validate, ("scan", "scan_late")))})


def of_two(first_slice_mm: float) -> np.ndarray:
    """Of a finding of two voxels, and a second scan whose slices are 8 mm apart, the first at this height."""
    voxels, path = np.full((SIDE,) * 3, 50, np.int16), Provenance(Path("scan"), "nifti")
    mask, coarse = np.zeros_like(voxels), np.diag([1.0, 1, 8, 1])
    mask[10:12, 15, 16] = 1
    coarse[2, 3] = first_slice_mm
    late = Volume(np.full((4, SIDE, SIDE), 70, np.int16), coarse, path)
    scans = {"scan": Volume(voxels, np.eye(4), path), "scan_late": late}
    return Preprocessing(TWO).image(scans, region_of_mask(Volume(mask, np.eye(4), path)))


def test_a_mask_that_lies_between_the_slices_of_a_further_channel_is_seen_in_the_nearest():
    first, late = of_two(first_slice_mm=6.0)  # slices at 6, 14, 22 ...
    assert (first > -1).any()
    assert (late > -1).any()


def test_a_further_channel_that_shows_nothing_of_the_mask_is_refused():
    with pytest.raises(
        InputRejected, match="^scan: shows no part of the region to which input.isolate restricts the network"
    ):
        of_two(first_slice_mm=16.0)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_tiles_are_pooled_inside_the_mask_alone(cohort, pooling):
    image = prepared(cohort, 0)[0]
    encoder = TileEncoder(ItsVoxels(), (8, 8, 8), overlap=0.0)
    encoder.pool_by(pooling)
    tiles = [image[box] for box in encoder.cuts(image.shape)]
    shown = [tile.mean() for tile in tiles if (tile > -1).any()]
    expected = {"mean": np.mean, "max": np.max}[pooling](shown)
    assert len(shown) < len(tiles) / 2
    pooled = encoder.pool(encoder(torch.from_numpy(image)[None, None]), [-1])
    assert pooled.item() == pytest.approx(float(expected), abs=1e-5)


def test_without_a_mask_it_is_said_what_is_missing(cohort):
    scan = read_scan(cohort.cases[0].path)
    with pytest.raises(UnusableVoxels, match=r"scan\.nii\.gz: no mask; expected a mask, as in training"):
        Preprocessing(CONFIG)(scan, Region((16.0, 16.0, 16.0), (5.0, 5.0, 5.0)))
