"""Several scans per case: where the table names them, and that none escapes a lock or a leak check."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import write_rows

from med_transfer.cohorts import (
    Cohort,
    CohortLock,
    Split,
    SplitConfig,
    channel_columns,
    check_leakage,
    overlap,
    preparation_key,
    prepare_cohort,
    prepare_scan,
    read_scans,
    seen_before,
)
from med_transfer.errors import CohortError, PatientLeak
from med_transfer.evaluation.subgroup_columns import cohort_subgroups
from med_transfer.phantoms import write_nifti
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig

TWO = PreprocessingConfig(channels=("scan", "scan_late"), shape=(8, 8, 8))
ALONE = PreprocessingConfig(shape=(8, 8, 8))


def write_scan(path: Path, seed: int) -> str:
    voxels = np.random.default_rng(seed).integers(-1000, 1000, (10, 12, 14)).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_nifti(path, voxels, np.diag([1.0, 1.0, 2.0, 1.0])).name


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [
        {
            "scan": write_scan(tmp_path / f"{n}.nii", n),
            "scan_late": write_scan(tmp_path / f"{n}-late.nii", 50 + n),
            "patient": f"p{n}",
            "label": "ab"[n % 2],
            "scan_date": f"2020-0{1 + n % 2}",
        }
        for n in range(6)
    ]
    return write_rows(tmp_path / "cohort.csv", rows)


def test_columns_that_the_config_lists_are_scans_and_the_others_stay_subgroups(table):
    case = Cohort.read(table).cases[2]
    assert case.scan_in("scan") == (table.parent / "2.nii", "")
    assert case.scan_in("scan_late") == (table.parent / "2-late.nii", "")
    assert case.scan_in("scan_early") is None
    assert case.columns["scan_date"] == "2020-01"
    volumes = read_scans(case, TWO)
    assert [volume.provenance.path.name for volume in volumes.values()] == ["2.nii", "2-late.nii"]
    assert list(read_scans(case, ALONE)) == ["scan"]


def test_series_of_a_further_scan_has_a_column_of_its_own(table):
    lines = table.read_text().splitlines()
    table.write_text("\n".join([f"{lines[0]},series_uid,series_uid_late", *(f"{line},1.2,1.3" for line in lines[1:])]))
    case = Cohort.read(table).cases[0]
    assert [case.scan_in(column)[1] for column in TWO.columns] == ["1.2", "1.3"]


def test_prepared_case_has_a_channel_a_hash_and_a_spacing_for_each_scan(table):
    case = Cohort.read(table).cases[0]
    prepared = prepare_scan(case, Preprocessing(TWO))
    volumes = read_scans(case, TWO)
    assert prepared.tensor.shape == (2, 8, 8, 8)
    assert prepared.content_hashes == tuple(volume.content_hash for volume in volumes.values())
    assert prepared.spacings_mm == ((1, 1, 2), (1, 1, 2))
    assert len(prepare_scan(case, Preprocessing(ALONE)).content_hashes) == 1


def test_prepared_cohort_comes_back_from_its_cache_the_same(table, tmp_path):
    cohort = Cohort.read(table)
    first, again = (prepare_cohort(cohort, Preprocessing(TWO), tmp_path / "cache") for _ in range(2))
    for one, other in zip(first.scans, again.scans, strict=True):
        np.testing.assert_array_equal(one.tensor, other.tensor)
        assert (one.content_hashes, one.spacings_mm) == (other.content_hashes, other.spacings_mm)


def test_cache_forgets_when_a_further_scan_changes(table):
    case = Cohort.read(table).cases[0]
    before = [preparation_key(case, Preprocessing(config)) for config in (TWO, ALONE)]
    write_scan(table.parent / "0-late.nii", 99)
    assert preparation_key(case, Preprocessing(TWO)) != before[0]
    assert preparation_key(case, Preprocessing(ALONE)) == before[1]


def test_case_without_its_further_scan_is_rejected_and_the_rest_goes_on(table, tmp_path):
    text = table.read_text().replace("3-late.nii", "").replace("4-late.nii", "gone.nii")
    table.write_text(text)
    prepared = prepare_cohort(Cohort.read(table), Preprocessing(TWO), tmp_path / "cache")
    assert len(prepared.scans) == 4
    missing, gone = prepared.failed
    assert (missing.scan, missing.status) == ("3.nii", "rejected")
    assert missing.reason.startswith("3.nii: no scan for channel scan_late")
    assert (gone.scan, gone.status) == ("4.nii", "failed")
    assert gone.reason.startswith("gone.nii: ")
    assert str(tmp_path) not in missing.reason + gone.reason


def test_table_without_the_column_is_refused_before_a_scan_is_read(table, tmp_path):
    config = PreprocessingConfig(channels=("scan", "scan_early", "scan_late"), shape=(8, 8, 8))
    with pytest.raises(
        CohortError, match=r"cohort\.csv: no scan in column scan_early; expected columns scan, scan_ear"
    ):
        prepare_cohort(Cohort.read(table), Preprocessing(config), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def lock_of(cohort: Cohort, images, split: Split) -> CohortLock:
    return CohortLock.of(cohort, images, split, SplitConfig(test_fraction=0.2))


SPLIT = Split((4, 5), ((0, 1),), (2, 3))


def test_lock_holds_every_scan_of_a_case_and_a_scan_alone_as_before(table):
    cohort = Cohort.read(table)
    both = [(f"h{n}", f"late{n}") for n in range(6)]
    lock, alone = lock_of(cohort, both, SPLIT), lock_of(cohort, [one[:1] for one in both], SPLIT)
    assert {case.content_hashes for case in lock.cases} == set(both)
    assert all("channel_hashes" not in case for case in json.loads(alone.model_dump_json())["cases"])
    changed = lock_of(cohort, [*both[:5], ("h5", "another")], SPLIT)
    assert len({one.cohort_hash for one in (lock, alone, changed)}) == 3
    lock.write(table.with_name("lock.json"))
    assert CohortLock.read(table.with_name("lock.json")) == lock


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("copied", [0, 1])
def test_an_image_on_both_sides_is_found_in_whatever_channel(table, place, copied):
    cohort = Cohort.read(table)
    images = [[f"h{n}", f"late{n}"] for n in range(6)]
    images[4][place] = images[2][copied]
    hashes = [tuple(one) for one in images]
    with pytest.raises(
        PatientLeak, match=r"cohort\.csv: identical images in the test set.*\(4\.nii\) with row 4 \(2\.nii\)"
    ):
        check_leakage(cohort, hashes, SPLIT)
    known = {image for number in (0, 1, 2, 3) for image in hashes[number]}
    assert seen_before(cohort.subset([4, 5]), hashes[4:], [], known) == (0,)
    lock = lock_of(cohort, [*hashes[:4], ("x", "y"), hashes[5]], SPLIT)
    stranger = Cohort.read(table, labelled=False).subset([4])
    anonymous = Cohort(tuple(c.__class__(c.scan, c.path, "", None) for c in stranger.cases), stranger.labels)
    assert overlap(lock, anonymous, hashes[4:5]) == (0,)


def test_images_of_two_scans_of_one_case_do_not_leak_into_each_other(table):
    cohort = Cohort.read(table)
    check_leakage(cohort, [(f"h{n}", f"h{n}") for n in range(6)], SPLIT)


def test_columns_of_scans_divide_no_cohort_into_subgroups(table, tmp_path):
    cohort = Cohort.read(table)
    prepared = prepare_cohort(cohort, Preprocessing(TWO), tmp_path / "cache")
    found = {one.column for one in cohort_subgroups(prepared, None, channel_columns(TWO))}
    assert not found & {"scan_late", "series_uid_late"}
