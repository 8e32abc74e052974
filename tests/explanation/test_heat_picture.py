"""The picture shows the map in colour where there is one, and the scan unchanged elsewhere."""

import io

import numpy as np
from matplotlib.image import imread

from med_transfer.explanation.picture import (
    _AGAINST,
    _FOR,
    _MAX_OPACITY,
    PictureStyle,
    _blend,
    few_slices,
    heat_picture,
)

AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])


def drawn(heat: np.ndarray, kind="png") -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower row as RGB in [0, 1]."""
    voxels = np.full(heat.shape, 0.5, np.float32)
    picture = heat_picture(voxels, heat, AFFINE, (0.0, 1.0), (10.0, 10.0, 10.0), style=PictureStyle(kind))
    rgb = imread(io.BytesIO(picture), format=kind)[..., :3]
    rgb = rgb / 255 if kind == "jpeg" else rgb
    return rgb[: len(rgb) // 2], rgb[len(rgb) // 2 :]


def orange(rgb):
    return (rgb[..., 0] - rgb[..., 2] > 0.3) & (rgb[..., 1] < 0.75 * rgb[..., 0])


def blue(rgb):
    return rgb[..., 2] - rgb[..., 0] > 0.3


def test_orange_speaks_for_and_blue_against():
    heat = np.zeros((21, 21, 21), np.float32)
    heat[8:13, 8:13, 8:13] = 2.0
    heat[8:13, 8:13, 0:4] = -2.0
    plain, coloured = drawn(heat)
    assert not orange(plain).any()
    assert not blue(plain).any()
    assert 0.02 < orange(coloured).mean() < 0.08  # 25 of 441 voxels, with margins
    assert 0.005 < blue(coloured).mean() < 0.05


def test_colours_are_as_opaque_as_the_map_is_strong():
    """On mid grey: half of the strongest value has half the opacity, 0 none; what opposes is blue as strongly."""
    grey, strength = np.full((1, 5), 100, np.uint8), np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    against_all, against, nothing, half, whole = _blend(grey, np.rint(128 + 127 * strength)[None].astype(np.uint8))[0]
    assert nothing.tolist() == [100, 100, 100]
    for strong, weak, colour in ((whole, half, _FOR), (against_all, against, _AGAINST)):
        np.testing.assert_allclose(strong, 100 + _MAX_OPACITY * (np.array(colour) - 100), atol=1)
        np.testing.assert_allclose(weak - 100.0, (strong - 100.0) / 2, atol=2)


def test_an_empty_map_and_what_was_not_seen_leave_the_scan_as_it_is():
    for heat in (np.zeros((21, 21, 21), np.float32), np.full((21, 21, 21), np.nan, np.float32)):
        plain, coloured = drawn(heat)
        np.testing.assert_allclose(plain, coloured, atol=0.01)


def test_a_jpeg_is_small():
    rng = np.random.default_rng(0)
    picture = heat_picture(
        rng.random((24, 24, 24)), rng.random((24, 24, 24)), AFFINE, (0, 1), (5, 5, 5), style=PictureStyle("jpeg")
    )
    assert picture[:2] == b"\xff\xd8"
    assert len(picture) < 150_000


def test_two_slices_are_shown_as_slices_and_planes_in_the_patients_proportions():
    """Streaks of two voxels across would be read as anatomy."""
    voxels = np.stack([np.zeros((20, 20)), np.ones((20, 20))]).astype(np.float32)
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    assert few_slices(voxels, affine) == 0
    assert few_slices(voxels.transpose(2, 1, 0), affine) == 2
    assert few_slices(np.zeros((7, 9, 9)), affine) is None
    picture = heat_picture(voxels, np.zeros_like(voxels), affine, (0.0, 1.0), (10.0, 10.0, 5.0))
    rgb = imread(io.BytesIO(picture), format="png")[..., :3]
    upper = rgb[: len(rgb) // 2]
    dark, bright = upper[:, : upper.shape[1] // 2], upper[:, upper.shape[1] // 2 :]
    assert (bright > 0.95).all(axis=-1).mean() > 0.5
    assert (dark > 0.95).all(axis=-1).mean() == 0
    white = (bright > 0.95).all(axis=-1)
    assert abs(np.ptp(np.flatnonzero(white.any(axis=0))) - np.ptp(np.flatnonzero(white.any(axis=1)))) <= 2  # square
