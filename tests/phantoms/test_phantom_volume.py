"""A phantom in memory: the lesion is where it says, densities are those of a chest, the seed fixes everything."""

import numpy as np
import pytest
from scipy import ndimage

from med_transfer.errors import ConfigError
from med_transfer.phantoms import CLASSES, chest, phantom_volume
from med_transfer.phantoms.chest import paint_chest
from med_transfer.phantoms.imaging import ct_noise
from med_transfer.phantoms.lesions import LARGEST_MM, SMALLEST_MM, draw_diameter_mm, paint_lesion
from med_transfer.phantoms.patient import draw_patient, take_scan
from med_transfer.scans import geometry

SMALL = (24, 64, 64)
LABELS = [(task, label) for task, labels in CLASSES.items() for label in labels]


def values_near(phantom, radius_mm: float) -> np.ndarray:
    k, j, i = np.indices(phantom.voxels.shape)
    points = geometry.to_world_mm(phantom.affine, np.stack([i, j, k], axis=-1))
    return phantom.voxels[np.linalg.norm(points - phantom.lesion_mm, axis=-1) <= radius_mm]


@pytest.mark.parametrize("patient", range(4))
def test_lesion_is_painted_at_its_centre(patient):
    person = draw_patient(3, "texture", patient, label="solid", difficulty=0.0)
    scan = take_scan(person, 0)
    grid, affine = scan.acquisition.grid, scan.affine
    cover = paint_lesion(np.full(grid.shape, -850, dtype=np.float32), grid, person.lesion)
    centroid_kji = ndimage.center_of_mass(cover)
    found = geometry.to_world_mm(affine, centroid_kji[::-1])
    assert np.abs(found - scan.lesion_mm).max() < 0.8  # lobes are not symmetric; a voxel is over 2 mm
    painted_ml = cover.sum() * abs(np.linalg.det(affine[:3, :3]))
    assert painted_ml == pytest.approx(np.pi / 6 * scan.lesion_size_mm**3, rel=0.35)


def test_a_smooth_lesion_is_centred_to_a_tenth_of_a_voxel():
    person = draw_patient(3, "shape", 1, label="cavitated")
    scan = take_scan(person, 0)
    cover = paint_lesion(np.zeros(scan.voxels.shape, dtype=np.float32), scan.acquisition.grid, person.lesion)
    expected = geometry.to_index(scan.affine, scan.lesion_mm)
    assert np.abs(np.array(ndimage.center_of_mass(cover))[::-1] - expected).max() < 0.1


@pytest.mark.parametrize("shape", [(8, 32, 48), (24, 64, 64), (60, 128, 96)])
def test_every_shape_holds_the_whole_lesion(shape):
    for patient in range(6):
        phantom = phantom_volume("smooth", patient=patient, shape=shape)
        assert phantom.voxels.shape == shape
        assert phantom.voxels.dtype == np.int16
        assert geometry.orientation(phantom.affine) == "LPS"
        index = geometry.to_index(phantom.affine, phantom.lesion_mm)
        margin = phantom.lesion_size_mm / 2 / np.array(geometry.spacing_mm(phantom.affine))
        assert (index - margin > -0.5).all()
        assert (index + margin < np.array(shape[::-1]) - 0.5).all()


def test_a_chest_is_the_same_in_slabs_no_larger_than_their_limit(monkeypatch):
    person = draw_patient(0, "texture", 0)
    grid = take_scan(person, 0).acquisition.grid
    grid = grid.slab(len(grid.z) // 2, len(grid.z) // 2 + 7)
    whole, sizes, paint = paint_chest(person.anatomy, grid, table=True), [], chest._paint_slab

    def counted(volume, *painted):
        sizes.append(len(volume))
        paint(volume, *painted)

    monkeypatch.setattr(chest, "_paint_slab", counted)
    monkeypatch.setattr(chest, "_SLAB_VOXELS", 3 * whole[0].size + 1)
    np.testing.assert_array_equal(paint_chest(person.anatomy, grid, table=True), whole)
    assert sizes == [3, 3, 1]


def test_densities_are_those_of_a_chest():
    person = draw_patient(0, "texture", 0)
    grid = take_scan(person, 0).acquisition.grid
    ideal = paint_chest(person.anatomy, grid, table=False)
    share = {
        "air": np.mean(ideal < -950),
        "lung": np.mean((ideal > -920) & (ideal < -750)),
        "fat": np.mean((ideal > -120) & (ideal < -70)),
        "muscle and blood": np.mean((ideal > 0) & (ideal < 190)),
        "bone": np.mean(ideal > 250),
    }
    assert share["air"] > 0.2
    assert share["lung"] > 0.1
    assert all(share[tissue] > 0.01 for tissue in ("fat", "muscle and blood", "bone"))
    assert ideal.min() >= -1001
    assert ideal.max() < 1300


def test_textures_have_their_density_when_easy():
    def middle(label: str, patient: int) -> float:
        return float(np.median(values_near(phantom_volume(label, patient=patient, shape=SMALL, difficulty=0.0), 4.0)))

    patients = range(6)
    assert np.median([middle("solid", n) for n in patients]) == pytest.approx(30, abs=60)
    assert np.median([middle("ground-glass", n) for n in patients]) == pytest.approx(-580, abs=90)
    assert -560 < np.median([middle("part-solid", n) for n in patients]) <= 60


def test_cavity_holds_air():
    def middle(label: str) -> float:
        phantoms = (phantom_volume(label, patient=n, shape=SMALL, difficulty=0.0) for n in range(6))
        return float(np.mean([values_near(phantom, 3.0).mean() for phantom in phantoms]))

    assert middle("cavitated") < middle("smooth") - 200


@pytest.mark.parametrize("label", CLASSES["appearance"])
def test_an_appearance_is_an_outline_and_a_density(label):
    outline, density = label.split()
    lesion = draw_patient(3, "appearance", 1, label=label).lesion
    assert (lesion.spicule_ratio > 0) == (outline == "spiculated")
    assert (lesion.lobe_ratio > 0.15) == (outline == "lobulated")
    assert (lesion.core_ratio == 0) == (density == "ground-glass")
    assert (lesion.core_ratio > 1) == (density == "solid")


def test_the_heart_lies_left_and_the_spine_behind():
    """Asymmetric landmarks: a flipped axis cannot pass."""
    person = draw_patient(1, "texture", 2)
    acquisition = take_scan(person, 0, (60, 96, 96)).acquisition
    ideal = paint_chest(person.anatomy, acquisition.grid, table=False)
    k, j, i = np.nonzero(ideal > 250)
    bone = geometry.to_world_mm(acquisition.affine, np.stack([i, j, k], axis=-1)) - acquisition.shift_mm
    assert np.median(bone[np.abs(bone[:, 0]) < 12, 1]) > 20  # posterior is +y
    heart = geometry.to_index(acquisition.affine, np.add(person.anatomy.heart_mm, acquisition.shift_mm))
    assert person.anatomy.heart_mm[0] > 0  # left is +x
    i, j, k = np.rint(heart).astype(int)
    if 0 <= k < 60:
        assert ideal[k, j, i] > 0


@pytest.mark.parametrize(("task", "label"), LABELS)
def test_the_same_seed_gives_the_same_voxels(task, label):
    first, again = (phantom_volume(label, task=task, seed=4, patient=7, shape=SMALL) for _ in range(2))
    assert first.voxels.tobytes() == again.voxels.tobytes()
    assert np.array_equal(first.affine, again.affine)
    assert first[2:] == again[2:]
    other = phantom_volume(label, task=task, seed=5, patient=7, shape=SMALL)
    assert not np.array_equal(first.voxels, other.voxels)


def test_two_scans_of_a_patient_show_one_anatomy():
    first, second = (phantom_volume("solid", patient=2, scan=n) for n in range(2))
    assert not np.array_equal(first.voxels, second.voxels)
    assert 1.0 <= second.lesion_size_mm / first.lesion_size_mm <= 1.08


def test_unknown_label_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"label: unknown class 'round'; expected one of solid, .*cavitated"):
        phantom_volume("round")
    with pytest.raises(ConfigError, match="unknown class 'smooth'"):
        phantom_volume("smooth", task="texture")


def test_sizes_are_within_bounds_and_blind_to_the_class():
    sizes = [draw_diameter_mm(np.random.default_rng(n)) for n in range(300)]
    assert min(sizes) >= SMALLEST_MM
    assert max(sizes) <= LARGEST_MM
    by_label = {label: draw_patient(0, "texture", 5, label=label).lesion.diameter_mm for label in CLASSES["texture"]}
    assert len(set(by_label.values())) == 1


@pytest.mark.parametrize("shape", [(4, 64, 64), (3, 33, 47)])
def test_noise_has_unit_variance_and_grain(shape):
    noise = {cutoff: ct_noise(np.random.default_rng(0), shape, cutoff) for cutoff in (0.4, 0.85)}
    for values in noise.values():
        assert values.std() == pytest.approx(1, rel=0.06)
        assert abs(values.mean()) < 0.05
    neighbours = {c: np.corrcoef(v[:, :, 1:].ravel(), v[:, :, :-1].ravel())[0, 1] for c, v in noise.items()}
    assert neighbours[0.4] > neighbours[0.85] + 0.2  # a soft kernel has coarser grain
    slices = noise[0.4]
    assert abs(np.corrcoef(slices[0].ravel(), slices[1].ravel())[0, 1]) < 0.15
