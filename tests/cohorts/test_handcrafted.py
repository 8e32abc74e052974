import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from med_transfer.cohorts.handcrafted import FEATURE_NAMES, features
from med_transfer.scans import Provenance, Region, Volume, geometry, read_scan

SPACING = (0.7, 0.9, 2.5)
SHAPE = (6, 9, 8)


def volume_of(voxels, affine=None, spacing=SPACING, origin=(-30.0, 12.0, 100.0)):
    if affine is None:
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = origin
    return Volume(voxels, affine, Provenance(Path("x.nii"), "nifti"))


def noise(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(-1000, 600, shape).astype(np.int16)


def blob(shape=SHAPE):
    mask = np.zeros(shape, dtype=np.int16)
    mask[1:4, 2:7, 3:6] = 1
    mask[2, 4, 6] = 2
    return mask


def reordered(volume, order, flips):
    """The same scan stored with its array axes permuted and flipped."""
    voxels, affine = volume.voxels, volume.affine.copy()
    for axis in np.flatnonzero(flips):
        column = 2 - axis
        affine[:3, 3] += affine[:3, column] * (voxels.shape[axis] - 1)
        affine[:3, column] *= -1
        voxels = np.flip(voxels, axis)
    return volume_of(voxels.transpose(order), affine[:, [2 - order[2], 2 - order[1], 2 - order[0], 3]])


def finer(volume, factor=2):
    """The same content on a grid with every voxel divided."""
    voxels, affine = volume.voxels, volume.affine.copy()
    for axis in range(3):
        voxels = voxels.repeat(factor, axis)
    affine[:3, :3] /= factor
    affine[:3, 3] += (affine[:3, :3] @ np.ones(3)) * (1 - factor) / 2
    return volume_of(voxels, affine)


def same(first, second):
    assert list(first) == list(second) == list(FEATURE_NAMES)
    np.testing.assert_allclose(list(first.values()), list(second.values()), rtol=1e-9, atol=1e-9)


def test_first_order_agrees_with_scipy_and_numpy():
    voxels = noise()
    found = features(volume_of(voxels))
    values = voxels.ravel().astype(float)
    assert found["mean_hu"] == pytest.approx(values.mean())
    assert found["sd_hu"] == pytest.approx(values.std())
    assert found["skewness"] == pytest.approx(stats.skew(values))
    assert found["kurtosis"] == pytest.approx(stats.kurtosis(values))
    histogram, _ = np.histogram(values, np.arange(-1000, 626, 25))
    assert found["entropy_bits"] == pytest.approx(stats.entropy(histogram, base=2))
    for q in (5, 25, 50, 75, 95):
        assert found[f"p{q:02d}_hu"] in values
        assert found[f"p{q:02d}_hu"] == pytest.approx(np.percentile(values, q), abs=20)
    edges = [-np.inf, -700, -300, 0, 100, np.inf]
    shares = [found[name] for name in FEATURE_NAMES if name.startswith("share")]
    assert shares == pytest.approx([np.mean((values >= a) & (values < b)) for a, b in itertools.pairwise(edges)])
    assert sum(shares) == pytest.approx(1)


def test_mask_agrees_with_simpleitk():
    scan, mask = volume_of(noise()), volume_of(blob())
    image, label = (sitk.GetImageFromArray(v.voxels) for v in (scan, mask))
    for picture in (image, label):
        picture.SetSpacing(SPACING)
    shape, intensity = sitk.LabelShapeStatisticsImageFilter(), sitk.LabelIntensityStatisticsImageFilter()
    binary = sitk.Cast(label > 0, sitk.sitkUInt8)
    shape.Execute(binary)
    intensity.Execute(binary, image)
    found = features(scan, None, mask)
    assert found["volume_ml"] == pytest.approx(shape.GetPhysicalSize(1) / 1000)
    assert found["diameter_mm"] == pytest.approx(2 * shape.GetEquivalentSphericalRadius(1))
    extents = sorted(np.array(shape.GetBoundingBox(1)[3:]) * SPACING)
    assert [found[f"extent_{which}_mm"] for which in ("min", "mid", "max")] == pytest.approx(extents)
    assert found["mean_hu"] == pytest.approx(intensity.GetMean(1))
    assert found["skewness"] == pytest.approx(stats.skew(scan.voxels[mask.voxels > 0].astype(float)))


def test_whole_scan_gives_its_physical_size():
    found = features(volume_of(noise()))
    assert found["volume_ml"] == pytest.approx(math.prod(SPACING) * math.prod(SHAPE) / 1000)
    assert [found[f"extent_{w}_mm"] for w in ("min", "mid", "max")] == pytest.approx([8 * 0.7, 9 * 0.9, 6 * 2.5])


def test_region_takes_the_voxels_inside_the_box():
    scan = volume_of(noise())
    i, j, k = 4, 5, 3
    region = Region(tuple(geometry.to_world_mm(scan.affine, (i, j, k))), (3 * 0.7, 3 * 0.9, 1 * 2.5))
    found = features(scan, region)
    inside = scan.voxels[k, j - 1 : j + 2, i - 1 : i + 2]
    assert found["mean_hu"] == pytest.approx(inside.mean())
    assert found["sd_hu"] == pytest.approx(inside.std())
    assert [found[f"extent_{w}_mm"] for w in ("min", "mid", "max")] == pytest.approx([2.1, 2.5, 2.7])
    assert found["volume_ml"] == pytest.approx(2.1 * 2.5 * 2.7 / 1000)


@settings(max_examples=20)
@given(
    st.integers(0, 1000),
    st.permutations(range(3)),
    st.tuples(*[st.booleans()] * 3),
    st.permutations(range(3)),
    st.tuples(*[st.booleans()] * 3),
)
def test_order_and_direction_of_axes_do_not_matter(seed, order, flips, mask_order, mask_flips):
    scan, mask = volume_of(noise(seed)), volume_of(blob())
    region = Region((-27.6, 15.9, 107.0), (3.1, 4.2, 7.7))
    turned, turned_mask = reordered(scan, order, flips), reordered(mask, mask_order, mask_flips)
    same(features(turned), features(scan))
    same(features(turned, region), features(scan, region))
    same(features(turned, region, turned_mask), features(scan, None, mask))


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(2, 3))
def test_a_finer_grid_of_the_same_content_changes_nothing(seed, factor):
    scan, mask = volume_of(noise(seed)), volume_of(blob())
    same(features(finer(scan, factor)), features(scan))
    same(features(finer(scan, factor), None, finer(mask, factor)), features(scan, None, mask))
    same(features(finer(scan, factor), None, mask), features(scan, None, mask))


def test_a_rotated_scan_and_its_mask():
    turn = np.eye(4)
    turn[:2, :2] = [[math.cos(0.4), -math.sin(0.4)], [math.sin(0.4), math.cos(0.4)]]
    scan, mask = volume_of(noise()), volume_of(blob())
    turned = (volume_of(v.voxels, turn @ v.affine) for v in (scan, mask))
    same(features(next(turned), None, next(turned)), features(scan, None, mask))


def test_mask_of_a_part_of_the_scan():
    scan, mask = volume_of(noise()), volume_of(blob())
    affine = mask.affine.copy()
    affine[:3, 3] = geometry.to_world_mm(affine, (2, 1, 1))
    same(features(scan, None, volume_of(blob()[1:5, 1:8, 2:8], affine)), features(scan, None, mask))


def test_undefined_is_nan():
    scan = volume_of(noise())
    empty = features(scan, None, volume_of(np.zeros(SHAPE, np.int16)))
    assert all(math.isnan(value) for value in empty.values())
    outside = features(scan, Region((500.0, 0.0, 0.0), (10.0, 10.0, 10.0)))
    assert outside["volume_ml"] == pytest.approx(1)
    assert math.isnan(outside["mean_hu"])
    constant = features(volume_of(np.full(SHAPE, 40, np.int16)))
    assert (constant["mean_hu"], constant["sd_hu"], constant["entropy_bits"], constant["p50_hu"]) == (40, 0, 0, 40)
    assert math.isnan(constant["skewness"])
    assert math.isnan(constant["kurtosis"])


@pytest.mark.real_data
def test_mask_volume_follows_the_diameter_that_was_read(nodules, nodule_cohort):
    import csv

    cohort = nodule_cohort("texture")
    with (nodules / "labels.csv").open(newline="") as file:
        read_mm = [float(row["diameter_mm"]) for row in csv.DictReader(file)][:40]
    found = [features(read_scan(c.path), None, read_scan(c.mask))["diameter_mm"] for c in cohort.cases[:40]]
    assert stats.spearmanr(found, read_mm).statistic > 0.8
