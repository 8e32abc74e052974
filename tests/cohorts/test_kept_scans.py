"""A scan that has already been read is prepared from memory: it is not read or searched for organs again."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from med_transfer.cohorts import Cohort, kept_scans, read_scans
from med_transfer.cohorts.kept_scans import keeping_scans, read_and_keep
from med_transfer.planning import fingerprint_cohort
from med_transfer.preprocessing import PreprocessingConfig

INPUT = PreprocessingConfig(modality="CT")


def write_scan(path: Path, value: int = 40) -> None:
    voxels = np.full((32, 32, 16), value + 100, np.int16)
    voxels[:8] = -1000
    nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, -1, 2, 1])), path)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    for number in range(4):
        write_scan(tmp_path / f"{number}.nii.gz", number)
    rows = "\n".join(f"{number}.nii.gz,p{number},{'ab'[number % 2]}" for number in range(4))
    (tmp_path / "cohort.csv").write_text(f"scan,patient,label\n{rows}")
    return Cohort.read(tmp_path / "cohort.csv")


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every reading that really happens."""
    files: list[Path] = []
    isolated = kept_scans.isolated

    def counted(function, path, *arguments, **options):
        files.append(path)
        return isolated(function, path, *arguments, **options)

    monkeypatch.setattr(kept_scans, "isolated", counted)
    return files


def test_each_scan_is_read_once_to_plan_and_to_prepare(cohort: Cohort, readings: list[Path]):
    with keeping_scans():
        fingerprint_cohort(cohort)
        prepared = [read_scans(case, INPUT)["scan"] for case in cohort.cases]
    assert readings == [case.path for case in cohort.cases]
    assert [int(scan.voxels.max()) for scan in prepared] == [100, 101, 102, 103]


def test_what_was_prepared_is_let_go_and_outside_nothing_is_kept(cohort: Cohort, readings: list[Path]):
    case = cohort.cases[0]
    with keeping_scans():
        looked_at = read_and_keep(case.path, "")
        assert read_and_keep(case.path, "") is looked_at
        assert read_scans(case, INPUT)["scan"] is looked_at
        assert read_scans(case, INPUT)["scan"] is not looked_at
    read_and_keep(case.path, "")
    read_scans(case, INPUT)
    assert len(readings) == 4


def test_a_file_that_changed_is_read_again(cohort: Cohort):
    case = cohort.cases[0]
    with keeping_scans():
        read_and_keep(case.path, "")
        write_scan(case.path, 77)
        assert read_scans(case, INPUT)["scan"].voxels.max() == 177


def test_memory_is_bounded(cohort: Cohort, readings: list[Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kept_scans, "MAX_BYTES", 2 * 32 * 32 * 16 * 2)  # two scans of int16
    with keeping_scans():
        fingerprint_cohort(cohort)
        for case in cohort.cases:
            read_scans(case, INPUT)
    assert [path.name for path in readings[4:]] == ["2.nii.gz", "3.nii.gz"]
