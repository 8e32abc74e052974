"""What a scanner or an archive combines under one series UID is separated, and what belongs together stays together."""

from __future__ import annotations

import numpy as np
import pytest
from dicom_series import PLANES, hounsfield, plane_affine, write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from med_transfer.errors import AmbiguousScan, GeometryRejected
from med_transfer.scans import find_series, read_scan


def names(stem: str, count: int = 5) -> list[str]:
    return [f"{stem}{k}" for k in range(count)]


def phase(folder, stem, seed, slices=5, **tags):
    """One volume at the usual place, under the UID that all share."""
    hu = hounsfield((slices, 7, 9), seed)
    write_series(folder, hu, series_uid="1.2.3", names=names(stem), **tags)
    return hu


@pytest.mark.parametrize(
    ("keyword", "first", "second"),
    [
        ("AcquisitionNumber", 1, 2),
        ("TemporalPositionIdentifier", 1, 2),
        ("EchoTime", 4.6, 2.3),
        ("EchoNumbers", 2, 1),
        ("DiffusionBValue", 0.0, 800.0),
        ("TriggerTime", 10.0, 410.0),
        ("ContentTime", "101500", "101730"),
        ("AcquisitionTime", "101500.25", "101730.5"),
        ("ImageType", ["DERIVED", "PRIMARY", "AXIAL", "WATER"], ["DERIVED", "PRIMARY", "AXIAL", "FAT"]),
        ("ConvolutionKernel", "B30f", "B70f"),
    ],
)
def test_two_volumes_under_one_uid(tmp_path, keyword, first, second):
    volumes = {}
    for stem, value, seed in (("a", first, 1), ("b", second, 2)):
        text = "\\".join(value) if isinstance(value, list) else str(value)
        volumes[f"{keyword} {text}"] = phase(tmp_path, stem, seed, **{keyword: value})
    found = find_series(tmp_path)
    assert {one.part for one in found} == set(volumes)
    assert {one.series_uid for one in found} == {"1.2.3"}
    for one in found:
        np.testing.assert_array_equal(read_scan(one).voxels, volumes[one.part])
        np.testing.assert_array_equal(read_scan(tmp_path, one.name).voxels, volumes[one.part])
    with pytest.raises(AmbiguousScan, match=rf"2 usable series: 1\.2\.3#{keyword} .*1\.2\.3#{keyword}"):
        read_scan(tmp_path)


def test_overlapping_acquisitions_at_other_positions(tmp_path):
    """A second pass that starts in the middle of the first, between its slices."""
    write_series(tmp_path, hounsfield((9, 7, 9), 1), series_uid="1.2.3", names=names("a", 9), AcquisitionNumber=1)
    write_series(
        tmp_path,
        hounsfield((9, 7, 9), 2),
        series_uid="1.2.3",
        names=names("b", 9),
        AcquisitionNumber=2,
        offsets=np.arange(9) + 4.3,
    )
    assert [(one.part, one.n_slices, str(one.verdict)) for one in find_series(tmp_path)] == [
        ("AcquisitionNumber 1", 9, "accept"),
        ("AcquisitionNumber 2", 9, "accept"),
    ]


def test_one_volume_in_two_acquisitions_stays_one(tmp_path):
    write_series(tmp_path, hounsfield((8, 7, 9)), change=lambda k, d: setattr(d, "AcquisitionNumber", 1 + k // 4))
    (series,) = find_series(tmp_path)
    assert (series.part, series.n_slices, str(series.verdict)) == ("", 8, "accept")


@pytest.mark.parametrize("number", [lambda k: 1 + k // 4, lambda k: 1 + k % 2], ids=["halves", "odd and even"])
def test_parts_of_one_volume_with_a_missing_slice_are_never_two_volumes(tmp_path, number):
    """Either half alone would look whole, and half of the organ would be gone without a word."""
    places = [0, 1, 2, 3, 5, 6, 7, 8]
    write_series(
        tmp_path,
        hounsfield((8, 7, 9)),
        offsets=places,
        change=lambda k, d: setattr(d, "AcquisitionNumber", number(places[k])),
    )
    (series,) = find_series(tmp_path)
    assert str(series.verdict).startswith("reject: 1 slice missing")


@pytest.mark.parametrize(("volumes", "slices"), [(2, 5), (3, 2)])
def test_repeats_that_nothing_tells_apart_are_rejected(tmp_path, volumes, slices):
    for stem in "abc"[:volumes]:
        phase(tmp_path, stem, ord(stem), slices)
    (series,) = find_series(tmp_path)
    said = f"reject: different images at one position: {volumes} at each of {slices} places; volumes"
    assert str(series.verdict).startswith(said)


def test_volumes_that_two_attributes_tell_apart(tmp_path):
    """Two echoes, each as magnitude and as phase, as some makers put them under one UID."""
    volumes = {}
    for echo in (4.6, 9.2):
        for kind in ("M", "P"):
            tags = {"EchoTime": echo, "ImageType": ["ORIGINAL", "PRIMARY", kind]}
            name = f"EchoTime {echo} ImageType ORIGINAL\\PRIMARY\\{kind}"
            volumes[name] = phase(tmp_path, f"{echo}{kind}", len(volumes), modality="MR", **tags)
    found = find_series(tmp_path)
    assert {one.part: str(one.verdict) for one in found} == dict.fromkeys(volumes, "accept")
    for one in found:
        np.testing.assert_array_equal(read_scan(one).voxels, volumes[one.part])


def test_volumes_are_told_in_the_order_of_their_names_whatever_the_order_on_disk(tmp_path):
    for number in (7, 3, 9, 1, 5):
        change = lambda k, d, n=number: setattr(d, "AcquisitionNumber", n)  # noqa: E731
        phase(tmp_path, f"{10 - number}", number, change=change)
    assert [one.part for one in find_series(tmp_path)] == [f"AcquisitionNumber {n}" for n in (1, 3, 5, 7, 9)]


def test_volumes_that_only_their_numbers_tell_apart(tmp_path):
    """Magnitude and B0 map of a field mapping sequence, one numbered after the other, with equal headers."""
    volumes = {}
    for first in (1, 6):
        name = f"InstanceNumber {first} to {first + 4}"
        volumes[name] = phase(
            tmp_path, f"{first}", first, change=lambda k, d, n=first: setattr(d, "InstanceNumber", n + k)
        )
    found = find_series(tmp_path)
    assert {one.part: str(one.verdict) for one in found} == dict.fromkeys(volumes, "accept")
    for one in found:
        np.testing.assert_array_equal(read_scan(one).voxels, volumes[one.part])


def test_numbers_that_go_to_and_fro_tell_nothing_apart(tmp_path):
    for stem, numbers in (("a", [1, 2, 3, 4, 5]), ("b", [10, 9, 8, 7, 6])):
        phase(tmp_path, stem, 1 + len(stem), change=lambda k, d, n=numbers: setattr(d, "InstanceNumber", n[k]))
        phase(tmp_path, f"{stem}x", 3, change=lambda k, d, n=numbers: setattr(d, "InstanceNumber", n[k] + 100))
    (series,) = find_series(tmp_path)
    assert "volumes (times, echoes ...) that nothing tells apart" in str(series.verdict)


def test_a_phase_that_lacks_a_slice_is_rejected_and_the_other_is_not(tmp_path):
    write_series(tmp_path, series_uid="1.2.3", names=names("a"), EchoTime=1.0)
    write_series(
        tmp_path, hounsfield(seed=3), series_uid="1.2.3", names=names("b"), EchoTime=2.0, offsets=[0, 1, 3, 4, 5]
    )
    verdicts = {one.part: one.verdict.decision for one in find_series(tmp_path)}
    assert verdicts == {"EchoTime 1.0": "accept", "EchoTime 2.0": "reject"}


def test_scout_without_a_label_is_set_apart(tmp_path):
    hu = phase(tmp_path, "ct", 1)
    write_series(tmp_path, hounsfield((1, 40, 33)), plane_affine("coronal"), series_uid="1.2.3", names=["scout"])
    axial, scout = find_series(tmp_path)
    assert (axial.n_slices, str(axial.verdict)) == (5, "accept")
    assert str(scout.verdict) == "reject: 1 slice, fewer than 3"
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, hu)
    np.testing.assert_allclose(read_scan(tmp_path).spacing_mm, (0.7, 0.9, 2.5), atol=1e-6)


def test_three_planes_under_one_uid_are_three_volumes(tmp_path):
    for plane in ("axial", "coronal", "sagittal"):
        write_series(tmp_path, hounsfield(seed=len(plane)), plane_affine(plane), series_uid="1.2.3", names=names(plane))
    found = find_series(tmp_path)
    assert sorted(one.plane for one in found) == ["axial", "coronal", "sagittal"]
    assert len({one.name for one in found}) == 3


def test_one_slice_of_another_plane_among_the_others_is_not_passed_over(tmp_path):
    """It stands where a slice is missing: rather a wrong label than a scout."""

    def turn(k, dataset):
        if k == 2:
            dataset.ImageOrientationPatient = [*PLANES["coronal"][0], *PLANES["coronal"][1]]

    write_series(tmp_path, change=turn)
    with pytest.raises(GeometryRejected, match=r"mixed orientations: slice 3"):
        read_scan(tmp_path)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(order=st.permutations(range(10)), spread=st.lists(st.integers(0, 2), min_size=10, max_size=10))
def test_names_and_folders_never_matter(tmp_path_factory, order, spread):
    folder = tmp_path_factory.mktemp("phases")
    hu = {1: hounsfield(seed=1), 2: hounsfield(seed=2)}
    for number, image in hu.items():
        stems = [f"{order[5 * (number - 1) + k]:02d}" for k in range(5)]
        paths = write_series(folder, image, series_uid="1.2.3", names=stems, AcquisitionNumber=number)
        for path in paths:
            inner = folder / str(spread[int(path.name)])
            inner.mkdir(exist_ok=True)
            path.rename(inner / path.name)
    found = {one.part: read_scan(one).voxels for one in find_series(folder)}
    for number, image in hu.items():
        np.testing.assert_array_equal(found[f"AcquisitionNumber {number}"], image)


@pytest.mark.parametrize("cosines", [[0] * 6, [1, 0, 0, 1, 0, 0], [1e308, 0, 0, 0, 1e308, 0], [1, 0, 0, 0.7, 0.7, 0]])
@pytest.mark.parametrize("damaged", [{5}, {0}, {1, 3, 5}, {2}])
def test_slices_whose_direction_is_none_are_not_set_apart(tmp_path, cosines, damaged, recwarn):
    """Every other slice lost its direction: what was left looked like a volume of twice the spacing."""

    def change(k, dataset):
        if k in damaged:
            dataset.ImageOrientationPatient = cosines

    write_series(tmp_path, hounsfield((6, 7, 9)), change=change)
    (series,) = find_series(tmp_path)
    assert str(series.verdict) == "reject: ImageOrientationPatient is not two perpendicular unit vectors"
    assert not recwarn
