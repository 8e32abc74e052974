"""Facts read from scans: from phantoms with known geometry, and from real cohorts if available."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from made_up_fingerprint import CHEST_BOXES, cohort, scan

from med_transfer.api import planned
from med_transfer.api.planned import config_for, timed_config
from med_transfer.cohorts import Cohort
from med_transfer.errors import CohortError, NothingDone
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.duration import prepare_seconds
from med_transfer.planning import fingerprint_cohort, fingerprint_scan, plan_cohort
from med_transfer.planning.fingerprint import require_alike
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.scans import Region, read_scan

DATA = os.environ.get("MED_TRANSFER_DATA")
real = pytest.mark.skipif(not DATA, reason="MED_TRANSFER_DATA names no folder of real scans")


def write_box(path: Path, *, spacing_mm=(1.0, 1.0, 4.0), size_mm=(260, 180, 120), inside: float = 40.0) -> Path:
    """A block of soft tissue in air, 20 mm of it around."""
    shape = [round((mm + 40) / step) for mm, step in zip(size_mm, spacing_mm, strict=True)]
    voxels = np.full(shape, -1000, np.int16)
    voxels[
        tuple(slice(round(20 / step), round((20 + mm) / step)) for mm, step in zip(size_mm, spacing_mm, strict=True))
    ] = inside
    nib.save(nib.Nifti1Image(voxels, np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1])), path)
    return path


def table(folder: Path, scans: list[Path], extra: str = "") -> Cohort:
    rows = [f"{path.name},p{n},{'ab'[n % 2]}{extra}" for n, path in enumerate(scans)]
    (folder / "cohort.csv").write_text("\n".join([f"scan,patient,label{',scan_post' if extra else ''}", *rows]))
    return Cohort.read(folder / "cohort.csv")


def test_sizes_and_planes_are_those_of_the_file(tmp_path):
    found = fingerprint_scan(read_scan(write_box(tmp_path / "one.nii.gz")))
    assert (found.modality, found.plane, found.body_region) == ("CT", "axial", "trunk")
    assert found.spacing_mm == pytest.approx((4, 1, 1))
    assert found.boxes_mm["body"] == pytest.approx((120, 180, 260), abs=8)
    assert set(found.boxes_mm) == {"whole", "body"}
    assert found.boxes_mm["whole"] == pytest.approx((160, 220, 300), abs=4)
    assert found.given_mm is None


@pytest.mark.parametrize("size_mm", [(280, 100, 120), (180, 180, 120)], ids=["flat", "narrow"])
def test_a_body_that_is_flat_or_narrow_is_not_taken_for_a_trunk(tmp_path, size_mm):
    assert fingerprint_scan(read_scan(write_box(tmp_path / "one.nii.gz", size_mm=size_mm))).body_region == "unknown"


def test_a_given_region_is_measured_and_nothing_is_looked_for(tmp_path):
    scan = read_scan(write_box(tmp_path / "one.nii.gz"))
    found = fingerprint_scan(scan, Region((0.0, 0.0, 0.0), (10.0, 25.0, 12.0)))
    assert (found.given_mm, found.body_region) == (25.0, "unknown")


def test_a_cohort_is_counted_from_its_table(tmp_path):
    scans = [write_box(tmp_path / f"{n}.nii.gz", size_mm=(250, 160, 40)) for n in range(5)]
    for n in range(5):
        write_box(tmp_path / f"post{n}.nii.gz", size_mm=(250, 160, 40))
    rows = "\n".join(f"{n}.nii.gz,p{n},{'ab'[n % 2]},post{n}.nii.gz,{n + 30}" for n in range(5))
    (tmp_path / "cohort.csv").write_text(f"scan,patient,label,scan_post,age\n{rows}")
    found = fingerprint_cohort(Cohort.read(tmp_path / "cohort.csv"), most_scans=3)
    assert (len(found.scans), found.n_scans, found.n_patients, found.rarest) == (3, 5, 5, 2)
    assert found.channels == ("scan", "scan_post")
    assert found.patients_of_class == {"a": 3, "b": 2}
    assert found.read_seconds > 0
    assert scans


def test_the_tables_split_and_both_states_of_its_findings_are_counted(tmp_path):
    for n in range(5):
        write_box(tmp_path / f"{n}.nii.gz")
    split = ("train", "train", "train", "test", "test")
    rows = "\n".join(f"{n}.nii.gz,p{n},{int(n != 1)},{split[n]}" for n in range(5))
    (tmp_path / "cohort.csv").write_text(f"scan,patient,label_clot,split\n{rows}")
    found = fingerprint_cohort(Cohort.read(tmp_path / "cohort.csv"), most_scans=1)
    assert found.table_split == {"train": 3, "test": 2}
    assert found.patients_of_class == {"clot": 4}
    assert found.patients_to_divide == {"clot": 2, "no clot": 1}


def test_what_cannot_be_read_is_counted_and_the_rest_is_looked_at(tmp_path):
    scans = [write_box(tmp_path / f"{n}.nii.gz", size_mm=(250, 160, 40)) for n in range(3)]
    broken = tmp_path / "3.nii.gz"
    broken.write_bytes(b"<html>")
    found = fingerprint_cohort(table(tmp_path, [*scans, broken]))
    assert (len(found.scans), sum(found.failed.values())) == (3, 1)
    for path in scans:
        path.write_bytes(b"<html>")
    with pytest.raises(NothingDone, match="none of 4 scans can be read; .* The first reason: .*NIfTI"):
        fingerprint_cohort(table(tmp_path, [*scans, broken]))


def test_a_table_that_mixes_modalities_is_refused(tmp_path):
    scans = [write_box(tmp_path / f"{n}.nii.gz", size_mm=(250, 160, 40)) for n in range(2)]
    rng = np.random.default_rng(0)
    for n in (2, 3):
        noise = rng.integers(0, 255, (64, 64, 30)).astype(np.uint8)
        nib.save(nib.Nifti1Image(noise, np.diag([-1.0, -1, 4, 1])), tmp_path / f"{n}.nii.gz")
        scans.append(tmp_path / f"{n}.nii.gz")
    mixed = table(tmp_path, scans)
    with pytest.raises(CohortError, match="modalities: 2 scans (CT|none stated), 2 scans (CT|none stated)"):
        plan_cohort(mixed)
    probe = {
        "split": {"folds": 2},
        "input": {"shape": [16, 16, 16]},
        "transfer": {"strategy": {"name": "linear_probe"}},
    }
    mine = FinetuneConfig.model_validate(probe | {"from_scratch_baseline": False})
    config, _ = config_for(FinetuneConfig, mixed, mine)  # as the error advises
    assert timed_config(mixed, config).duration.seconds > 0


@pytest.mark.parametrize(("n_head", "n_unknown"), [(14, 15), (14, 13), (20, 40)])
def test_parts_of_the_body_that_are_known_are_not_mixed_however_many_are_not(n_head, n_unknown):
    chest, unknown = scan(boxes_mm=CHEST_BOXES, body_region="chest"), scan(body_region="unknown")
    mixed = cohort([*[chest] * 30, *[scan()] * n_head, *[unknown] * n_unknown])
    for where, before in (((), ""), (("cohort.csv",), "cohort.csv: ")):
        with pytest.raises(CohortError, match=f"^{before}parts of the body: .*{n_head} scans head"):
            require_alike(mixed, *where)
    require_alike(cohort([*[chest] * 30, scan(), *[unknown] * n_unknown]))


def test_the_time_of_reading_is_that_of_what_is_made_of_the_scans(tmp_path, monkeypatch):
    cohort = table(tmp_path, [write_box(tmp_path / f"{n}.nii.gz", spacing_mm=(8, 8, 8)) for n in range(8)])
    small, large = (
        prepare_seconds(cohort, PreprocessingConfig(shape=(side, side, side), region="whole")) for side in (8, 192)
    )
    assert large > 3 * small > 0
    monkeypatch.setattr(planned, "prepare_seconds", lambda *_: 100.0)
    values = {
        "split": {"folds": 2},
        "input": {"shape": [16, 16, 16]},
        "transfer": {"strategy": {"name": "linear_probe"}},
    }
    config, _ = config_for(
        FinetuneConfig, cohort, FinetuneConfig.model_validate(values | {"from_scratch_baseline": False})
    )
    assert 800 < timed_config(cohort, config).duration.reading < 900  # and to read the half that was not looked at


@real
def test_head_ct_is_told_to_be_heads():
    found = fingerprint_cohort(Cohort.read(Path(DATA or "") / "head_ct/cohort.csv"), most_scans=8)
    assert (found.modality, found.plane, found.body_region) == ("CT", "axial", "head")
    assert found.found("brain") >= 7 / 8
    assert found.spacing_mm == pytest.approx((5, 0.86, 0.86), abs=0.01)


@real
def test_brain_mr_has_two_channels_and_an_unknown_part_of_the_body():
    found = fingerprint_cohort(Cohort.read(Path(DATA or "") / "brain_mr/cohort.csv"), most_scans=4)
    assert (found.modality, found.body_region) == ("", "unknown")
    assert found.channels == ("scan", "scan_post")
