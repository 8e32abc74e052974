"""MONAI transforms: the grid is MONAI's, and so are the values if there is no low-pass."""

import nibabel
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.croppad.array import ResizeWithPadOrCrop
from monai.transforms.intensity.dictionary import ScaleIntensityRanged
from monai.transforms.io.dictionary import LoadImaged
from monai.transforms.spatial.array import Orientation, Resize, Spacing
from monai.transforms.spatial.dictionary import Orientationd, Spacingd
from monai.transforms.utility.dictionary import EnsureChannelFirstd
from monai_affine import array_affine_ras
from scans_in_space import EVERY_WAY, reference_resample, smooth

from med_transfer.errors import ConfigError, GeometryRejected, UnusableVoxels
from med_transfer.preprocessing import ResampleToGrid, ResampleToGridd
from med_transfer.scans import geometry
from med_transfer.scans.geometry import Grid

TWO_MM = (2.0, 2.0, 2.0)
CHAINS = {
    "orientation": ({"orientation": "RAS"}, [Orientation("RAS", labels=None)]),
    "spacing": ({"spacing_mm": (1.0, 2.0, 3.0)}, [Spacing((1.0, 2.0, 3.0))]),
    "both": ({"orientation": "SPL", "spacing_mm": TWO_MM}, [Orientation("SPL", labels=None), Spacing(TWO_MM)]),
    "fitted": (
        {"orientation": "RAS", "shape": (12, 14, 10)},
        [Orientation("RAS", labels=None), Resize((12, 14, 10), mode="trilinear", dtype=torch.float64)],
    ),
    "cut": ({"spacing_mm": TWO_MM, "shape": (9, 8, 7)}, [Spacing(TWO_MM), ResizeWithPadOrCrop((9, 8, 7))]),
}


def image_of(affine: np.ndarray, voxels: np.ndarray | None = None) -> MetaTensor:
    voxels = smooth() if voxels is None else voxels
    affine_ras = torch.from_numpy(array_affine_ras(affine))
    return MetaTensor(torch.from_numpy(voxels)[None], affine=affine_ras, meta={"filename_or_obj": "scan.nii"})


@pytest.mark.parametrize(("options", "chain"), CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("affine", EVERY_WAY.values(), ids=EVERY_WAY)
def test_voxel_by_voxel_what_monai_gives(affine, options, chain):
    image = image_of(affine)
    ours = ResampleToGrid(**options, antialias=False)(image)
    reference = Compose(chain)(image)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.affine.numpy(), reference.affine.numpy(), atol=1e-9)
    np.testing.assert_allclose(ours.numpy(), reference.numpy(), atol=0.01)


def test_low_pass_is_on_unless_switched_off():
    image = image_of(EVERY_WAY["plain"])
    ours = ResampleToGrid(spacing_mm=(3.0, 3.0, 3.0))(image)
    grid = Grid(geometry.from_array_affine_ras(ours.affine.numpy()), tuple(ours.shape[1:]))
    reference = reference_resample(smooth(), EVERY_WAY["plain"], grid)
    np.testing.assert_allclose(ours[0].numpy(), reference, atol=0.01)


def test_metadata_is_kept_and_the_input_is_left_alone():
    image = image_of(EVERY_WAY["oblique"])
    voxels, affine = image.as_tensor().clone(), image.affine.clone()
    ours = ResampleToGrid(orientation="RAS", spacing_mm=TWO_MM)(image)
    assert ours.meta["filename_or_obj"] == "scan.nii"
    assert not ours.pending_operations
    assert not image.pending_operations
    assert torch.equal(image.affine, affine)
    assert torch.equal(image.as_tensor(), voxels)


def test_every_channel_is_resampled():
    first, second = smooth(seed=1), smooth(seed=2)
    affine = torch.from_numpy(array_affine_ras(EVERY_WAY["plain"]))
    both = MetaTensor(torch.from_numpy(np.stack([first, second])), affine=affine)
    step = ResampleToGrid(spacing_mm=TWO_MM)
    ours = step(both)
    for channel, voxels in zip(ours, (first, second), strict=True):
        assert torch.equal(channel.as_tensor(), step(image_of(EVERY_WAY["plain"], voxels))[0].as_tensor())


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.int32, np.float32, np.float64])
def test_any_type_of_voxel(dtype):
    voxels = np.abs(smooth() // 8).astype(dtype)
    ours = ResampleToGrid(spacing_mm=TWO_MM, antialias=False)(image_of(EVERY_WAY["plain"], voxels))
    reference = Spacing(TWO_MM)(image_of(EVERY_WAY["plain"], voxels))
    np.testing.assert_allclose(ours.numpy(), reference.numpy(), atol=1e-3)


def test_an_array_without_affine_has_voxels_of_one_millimetre():
    ours = ResampleToGrid(spacing_mm=TWO_MM)(smooth()[None])
    assert geometry.spacing_mm(ours.affine.numpy()) == TWO_MM


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # from LoadImaged, without a GPU
def test_stands_in_for_orientation_and_spacing_in_a_pipeline(tmp_path):
    path = tmp_path / "scan.nii.gz"
    voxels = smooth().transpose(2, 1, 0)
    nibabel.save(nibabel.Nifti1Image(voxels, geometry.swap_lps_ras(EVERY_WAY["flipped"])), path)
    before, after = (
        [LoadImaged("image", reader="NibabelReader"), EnsureChannelFirstd("image")],
        [ScaleIntensityRanged("image", -1000, 1000, 0, 1, clip=True)],
    )
    resampling = [ResampleToGridd("image", orientation="RAS", spacing_mm=TWO_MM, antialias=False)]
    chain = [Orientationd("image", "RAS", labels=None), Spacingd("image", TWO_MM)]
    for lazy in (False, True):
        ours = Compose([*before, *resampling, *after], lazy=lazy)({"image": path, "label": 1})
        reference = Compose([*before, *chain, *after])({"image": path, "label": 1})
        assert ours["label"] == 1
        np.testing.assert_allclose(ours["image"].affine, reference["image"].affine)
        np.testing.assert_allclose(ours["image"].numpy(), reference["image"].numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{}, {"outside": -500.0}, {"antialias": False}, {"spacing_mm": None, "outside": 7.0}, {"orientation": None}],
)
def test_the_dictionary_version_takes_every_option_of_the_other(options):
    image = image_of(EVERY_WAY["flipped"])
    options = {"orientation": "SPL", "spacing_mm": (3.0, 3.0, 3.0), "shape": (30, 40, 40)} | options
    alone = ResampleToGrid(**options)(image)
    assert torch.equal(ResampleToGridd("image", **options)({"image": image})["image"].as_tensor(), alone.as_tensor())
    corner = float(alone[0, 0, 0, 0])  # with a spacing the grid reaches beyond the scan
    if options["spacing_mm"]:
        assert (corner == options.get("outside")) == ("outside" in options)


def test_missing_keys_may_be_allowed():
    assert ResampleToGridd("image", orientation="RAS", allow_missing_keys=True)({"label": 1}) == {"label": 1}
    with pytest.raises(KeyError, match="image"):
        ResampleToGridd("image", orientation="RAS")({"label": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"nothing to do; expected orientation, spacing_mm or shape"),
        ({"spacing_mm": (1, 1)}, r"spacing_mm \(1, 1\); expected three positive sizes"),
        ({"spacing_mm": (1, 1, 0)}, r"spacing_mm \(1, 1, 0\); expected three positive sizes"),
        ({"spacing_mm": (1, 1, float("nan"))}, r"expected three positive sizes"),
        ({"shape": (64, 64)}, r"shape \(64, 64\); expected three numbers of voxels"),
        ({"shape": (64, 64, 0)}, r"expected three numbers of voxels"),
        ({"orientation": "RAX"}, r"orientation RAX; expected three letters"),
        ({"orientation": "RAS", "outside": "wrap"}, r"outside wrap; expected edge, or a number"),
        ({"orientation": "RAS", "outside": float("nan")}, r"outside nan; expected edge, or a number"),
        ({"orientation": "RAS", "outside": float("-inf")}, r"outside -inf; expected edge, or a number"),
    ],
)
def test_impossible_options_are_refused_at_once(options, message):
    with pytest.raises(ConfigError, match=f"^ResampleToGrid: .*{message}"):
        ResampleToGrid(**options)


def test_what_is_no_volume_is_refused():
    with pytest.raises(UnusableVoxels, match=r"array of shape \(1, 5, 5\); expected \[channel"):
        ResampleToGrid(spacing_mm=TWO_MM)(torch.zeros(1, 5, 5))
    with pytest.raises(GeometryRejected, match="do not span space"):
        ResampleToGrid(spacing_mm=TWO_MM)(image_of(np.diag([1.0, 1.0, 0.0, 1.0])))
