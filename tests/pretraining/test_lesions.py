"""Painted lesions: the reported ones are those painted, the scan's noise stays, and a network learns them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage
from tiny import measured, tiny_config, tiny_training

from med_transfer.backbones.networks.lesion_answers import KINDS
from med_transfer.pretraining import CropConfig, SourceScan, SourceScans
from med_transfer.pretraining.methods.painted_lesions import PaintedLesions
from med_transfer.pretraining.painting.lesions import FORMS, LesionPainter, _depth_mm, _spread_over_slices
from med_transfer.pretraining.source.crops import WHOLE, CropSampler
from med_transfer.pretraining.view_config import LesionConfig

CPU = torch.device("cpu")
NOISE_HU = 6.0
SIZE_MM = (20.0, 160.0, 160.0)


def heads(n: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A brain of 35 HU with two darker spaces of 8 HU, a skull, air; white noise; slabs of four slices of 5 mm."""
    _, y, x = np.mgrid[:4, :80, :80] - 39.5
    radius = np.hypot(y, x)
    hu = np.select([radius < 30, radius < 34], [35.0, 900.0], -1000.0)
    for side in (-1, 1):
        hu[np.hypot((y - 2) / 10, (x - 7 * side) / 4) < 1] = 8.0
    noise = np.random.default_rng(seed).normal(0, NOISE_HU, (n, 1, *hu.shape))
    return torch.from_numpy(hu + noise).float(), torch.tensor(SIZE_MM).expand(n, 3)


def painter(form: str | None = None, seed: int = 0, **changes) -> LesionPainter:
    forms = {name: 1.0 for name in FORMS if form in (None, name)}
    return LesionPainter(LesionConfig(**({"painted": 1.0, "forms": forms} | changes)), CPU, seed)


@pytest.mark.parametrize("form", FORMS)
def test_the_mask_says_where_the_scan_was_changed_and_in_which_direction(form):
    hu, size_mm = heads()
    painted, lesions = painter(form)(hu, size_mm)
    change = painted - hu
    denser, lighter = lesions.mask[:, :1], lesions.mask[:, 1:]
    assert lesions.present.any()
    for said, other, sign in ((denser, lighter, 1), (lighter, denser, -1)):  # where two overlap, both are reported
        alone = said > other
        assert (sign * change[alone] > 0).sum() >= 0.95 * alone.sum()
    assert lighter.any() == (form != "filling")
    assert change[lesions.mask.sum(1, keepdim=True) == 0].abs().max() < 10  # two soft edges at most
    assert (change[:, 0][:, 0, :2] == 0).all()  # air stays air


@pytest.mark.parametrize("form", FORMS)
def test_air_is_not_painted_if_all_tissue_lies_between_the_voxels_that_a_centre_is_drawn_from(form):
    hu, size_mm = torch.full((8, 1, 4, 48, 48), -1000.0), torch.tensor((20.0, 96.0, 96.0)).expand(8, 3)
    hu[..., 25, 25:27] = 30.0
    painted, lesions = painter(form, lesions=10)(hu, size_mm)
    assert torch.equal(painted, hu)
    assert not lesions.present.any()


def test_a_lesion_keeps_the_noise_of_the_scan():
    """The paint would be told by its smoothness; here the noise within it is that of the scan beside it."""
    hu, size_mm = heads(16)
    painted, lesions = painter("blob", radius_mm=(15, 20), lighter=0.0, lesions=1)(hu, size_mm)
    inside = torch.from_numpy(ndimage.binary_erosion(lesions.mask[:, 0].numpy() > 0, np.ones((1, 1, 7, 7))))
    fine = painted[:, 0] - torch.from_numpy(ndimage.gaussian_filter(painted[:, 0].numpy(), (0, 0, 1, 1)))
    before = hu[:, 0] - torch.from_numpy(ndimage.gaussian_filter(hu[:, 0].numpy(), (0, 0, 1, 1)))
    assert inside.sum() > 1000
    assert float(fine[inside].std() / before[inside].std()) == pytest.approx(1, abs=0.2)


def test_a_crescent_lies_along_the_wall_and_a_filling_in_the_dark_spaces():
    hu, size_mm = heads(16)
    clean = heads(1)[0][0, 0, 0].numpy()
    _, y, x = np.mgrid[:4, :80, :80] - 39.5
    wall, dark = torch.from_numpy(np.hypot(y, x) > 21), torch.from_numpy(ndimage.gaussian_filter(clean, 2) < 27)[None]
    crescents = painter("crescent", lighter=0.0, lesions=1, tissue_hu=(0, 60))(hu, size_mm)[1].mask[:, 0] > 0
    assert (crescents & wall).sum() > 0.9 * crescents.sum() > 0
    fillings = painter("filling", lesions=1, tissue_hu=(25, 45))(hu, size_mm)[1].mask[:, 0] > 0
    assert (fillings & dark).sum() > 0.7 * fillings.sum() > 0


def test_small_crescents_reach_the_wall_too():
    """In a head of 240 mm: of those drawn in its middle, nothing would be seen."""
    hu, size_mm = heads(16)[0], torch.tensor((20.0, 320.0, 320.0)).expand(16, 3)
    small = {"extent_mm": (8, 8), "thickness_mm": (14, 14), "denser_hu": (40, 60), "lighter": 0.0, "lesions": 1}
    drawn, crescents = (
        painter(form, tissue_hu=(0, 60), **small)(hu, size_mm)[1].present for form in ("blob", "crescent")
    )
    assert torch.equal(crescents, drawn)


def test_a_small_filling_stays_near_its_place_in_a_large_dark_space():
    brain = np.where(np.mgrid[:80, :80][0] < 40, 35.0, 8.0)
    noise = np.random.default_rng(0).normal(0, NOISE_HU, (32, 1, 4, 80, 80))
    small = painter("filling", lesions=1, tissue_hu=(25, 45), extent_mm=(8, 8))
    mask = small(torch.from_numpy(brain + noise).float(), torch.tensor(SIZE_MM).expand(32, 3))[1].mask[:, 0]
    columns = (mask > 0).any(dim=1).any(dim=1)  # [slab, column], of 2 mm
    spans = [2 * (1 + int(np.ptp(row.nonzero()))) for row in columns.numpy() if row.any()]
    assert 0 < max(spans) < 60


def test_the_depth_in_a_tissue_is_about_that_of_scipy():
    tissue = heads(1)[0] > 0
    tissue = tissue & (torch.from_numpy(np.hypot(*(np.mgrid[:80, :80] - 39.5))) < 30)
    tissue = torch.from_numpy(ndimage.binary_closing(tissue[0, 0].numpy(), np.ones((1, 5, 5))))[None, None]
    depth = _depth_mm(tissue, torch.tensor([[5.0, 2.0, 2.0]]), 14.0)[0, 0, 0].numpy()
    exact = np.minimum(ndimage.distance_transform_edt(tissue[0, 0, 0].numpy()) * 2, 14)
    assert np.abs(depth - exact)[exact > 0].max() < 5
    assert np.corrcoef(depth[exact > 0], exact[exact > 0])[0, 1] > 0.95


def discs(n: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One slice of a disc of tissue without noise, nearly as wide as the plane; voxels of 4 mm."""
    _, y, x = np.mgrid[:1, :width, :width] - (width - 1) / 2
    hu = torch.from_numpy(np.where(np.hypot(y, x) < 0.45 * width, 35.0, -1000.0)).float()
    return hu.expand(n, 1, 1, width, width), torch.tensor((5.0, 4.0 * width, 4.0 * width)).expand(n, 3)


@pytest.mark.parametrize(("form", "most_mm"), [("blob", 4), ("crescent", 9)])
def test_sizes_are_log_uniform_as_asked_for(form, most_mm):
    """Quantiles of the radius of equal area, of the depth below the wall; a soft edge and large voxels add to each."""
    hu, size_mm = discs(200, width=80)
    sizes = {"radius_mm": (8, 32), "thickness_mm": (8, 32), "extent_mm": (100, 100)}
    mask = painter(form, lighter=0.0, lesions=1, denser_hu=(40, 60), **sizes)(hu, size_mm)[1].mask[:, 0, 0].numpy() > 0
    depth_mm = 4 * ndimage.distance_transform_edt(hu[0, 0, 0].numpy() > 0)
    found = [4 * np.sqrt(one.sum() / np.pi) if form == "blob" else depth_mm[one].max() for one in mask if one.any()]
    shares = np.array([0.1, 0.5, 0.9])
    larger = np.quantile(found, shares) - 8 * (32 / 8) ** shares
    assert (larger > 0).all()
    assert (larger < most_mm).all()


def test_lesions_come_as_often_as_asked_for():
    hu, size_mm = discs(400, width=32)
    few = {"radius_mm": (8, 9), "denser_hu": (40, 60), "lighter_hu": (20, 25)}
    _, lesions = painter("blob", painted=0.5, lighter=0.25, **few)(hu, size_mm)
    assert float(lesions.present.any(dim=1).float().mean()) == pytest.approx(0.5, abs=0.07)
    one = painter("blob", lesions=1, lighter=0.25, **few)(hu, size_mm)[1].present.float().mean(0)
    assert float(one[1] / one.sum()) == pytest.approx(0.25, abs=0.07)
    assert (one.sum() < 0.7).all()  # of several that are allowed not every one is painted


@pytest.mark.parametrize(("slice_mm", "profile"), [(1.0, [0, 1, 0]), (5.0, [0.2, 0.6, 0.2])])
def test_the_end_of_a_lesion_is_spread_over_slices_that_are_thick(slice_mm, profile):
    share = torch.zeros(8, 1, 5, 6, 6)
    share[:, :, 2] = 1
    spread = _spread_over_slices(share, torch.tensor([slice_mm, 2.0, 2.0]).expand(8, 3))
    torch.testing.assert_close(spread[:, 0, 1:4, 3, 3], torch.tensor(profile, dtype=torch.float32).expand(8, 3))


def test_nothing_is_painted_where_there_is_no_tissue_or_none_is_asked_for():
    air, size_mm = torch.full((3, 1, 4, 40, 40), -1000.0), torch.tensor(SIZE_MM).expand(3, 3)
    for made, hu in ((painter(), air), (painter(painted=1e-9), heads(3)[0])):
        painted, lesions = made(hu, size_mm)
        assert torch.equal(painted, hu)
        assert not lesions.mask.any()


def test_the_same_seed_paints_the_same():
    hu, size_mm = heads()
    painted = []
    for elsewhere, seed in enumerate((1, 1, 2)):
        torch.manual_seed(elsewhere)  # only its own seed determines what is painted
        painted.append(painter(seed=seed)(hu, size_mm)[0])
    first, again, other = painted
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_slab_is_so_many_neighbouring_slices_of_the_whole_plane():
    """Of a scan whose voxels say their slice and row, so that where a slab lies can be read from it."""
    k, j, _ = np.mgrid[:20, :40, :40]
    scan = SourceScan((100 * k + j).astype(np.int16), (5.0, 2.0, 2.0), "0" * 64)
    plain = CropConfig(shape=(4, 40, 40), slab=4, shift_mm=1e-6).plain
    crops = CropSampler(SourceScans((scan,)), plain, CPU, seed=0, mixture={WHOLE: 1.0}).batch(32)
    slices = crops.hu[:, 0, :, 0, 0] / 100
    assert torch.allclose(slices.diff(dim=1), torch.ones(32, 3), atol=0.02)
    assert slices[:, 0].min() < 3
    assert slices[:, -1].max() > 16
    assert torch.allclose(crops.hu[0, 0, 0, :, 0].diff(), torch.ones(39), atol=0.02)
    assert crops.size_mm[0].tolist() == pytest.approx([20.0, 80.0, 80.0])


def test_a_network_learns_to_say_what_was_painted_into_scans_it_has_not_seen(tmp_path):
    scans = tuple(
        SourceScan(np.rint(heads(1, seed)[0][0, 0].numpy()).astype(np.int16), (5.0, 2.0, 2.0), f"{seed:064x}")
        for seed in range(6)
    )
    settings = {"steps": 60, "batch": 8, "learning_rate": 1e-2, "probe": {"every_steps": 60}, "validation_scans": 2}
    settings |= {"input_shape": (4, 40, 40), "crops": CropConfig(shape=(4, 40, 40), slab=4), "windows_hu": ((0, 80),)}
    lesions = {"radius_mm": (12, 25), "denser_hu": (40, 60), "lighter": 0.0, "forms": {"blob": 1.0}}
    tiny_training("painted_lesions", SourceScans(scans), tmp_path, painted_lesions=lesions, **settings).run()
    figures = [figure["presence_auc"] for figure in measured(tmp_path) if "presence_auc" in figure]
    assert figures[-1] > max(0.75, figures[0])


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("contrastive", {"windows_hu": ((0, 80),)}, "windows_hu is read by painted_lesions alone, not by contrastive"),
        ("labels", {"lung_scenes": {}}, "lung_scenes is read by distillation, masked_autoencoding, painted_nodules"),
        ("painted_lesions", {"windows_hu": ((80, 0),)}, r"the lower limit first, not \[80.0, 0.0\]"),
        ("painted_lesions", {"windows_hu": ((0, 0),)}, "the lower limit first"),
        ("painted_lesions", {"painted_lesions": {"tissue_hu": (80, -20)}}, "the lower limit first"),
    ],
)
def test_a_setting_that_nothing_would_come_of_is_refused(method, changes, message):
    with pytest.raises(ValidationError, match=message):
        tiny_config(method, **changes)


def test_the_method_is_a_setting_like_the_others():
    config = tiny_config("painted_lesions", windows_hu=((0, 80), (-20, 180)))
    assert PaintedLesions.figure == "presence_auc"
    assert config.windows_hu == ((0, 80), (-20, 180))
    assert len(KINDS) == 2
