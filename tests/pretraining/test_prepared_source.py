"""A source on disk: read once, streamed, with patients, regions and masks if the table has them."""

from __future__ import annotations

import csv
import logging
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from med_transfer.cohorts import recognise
from med_transfer.errors import CohortError, NothingDone, PatientLeak, ScanNotFound, UsageError
from med_transfer.phantoms import PhantomConfig, write_cohort, write_dicom_series, write_nifti
from med_transfer.pretraining import PretrainingConfig, prepare_source
from med_transfer.pretraining.source import reading as reading_module
from med_transfer.pretraining.source.prepared import cached_scan
from med_transfer.scans import geometry, read_mask, read_scan

MASKED = {"method": "supervised", "supervised": {"target": "mask"}}


def config(**changes) -> PretrainingConfig:
    return PretrainingConfig(**({"steps": 1, "spacing_mm": 2.0} | changes))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    """Three patients, one of each class, with masks; DICOM."""
    shape = (24, 64, 64)
    settings = PhantomConfig(patients_per_class=1, scans_per_patient=(1, 1), masks=True, shape=shape, seed=3)
    return write_cohort(tmp_path_factory.mktemp("phantoms") / "cohort", settings)


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def written(table: Path, lines: list[dict[str, str]]) -> Path:
    """Beside the original, so that the paths stay right."""
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return table


def assert_lies_in_its_file(array: np.ndarray) -> None:
    assert not array.flags.owndata
    assert not array.flags.writeable


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="the system does not say which files are open")
def test_a_source_of_thousands_of_scans_keeps_no_file_open(phantoms, tmp_path):
    prepare_source(phantoms, config(**MASKED), tmp_path)
    before = len(list(Path("/dev/fd").iterdir()))
    source = prepare_source(phantoms, config(**MASKED), tmp_path).scans
    assert len(list(Path("/dev/fd").iterdir())) == before
    assert all(scan.mask.max() == 255 for scan in source.scans)


def test_a_folder_is_read_once_and_its_patients_are_remembered(phantoms, tmp_path, monkeypatch):
    first = prepare_source(phantoms.parent / "scans", config(), tmp_path).scans
    patients = [row["patient"] for row in rows(phantoms)]
    assert sorted(recognise(patients, first.patient_hashes)) == sorted(patients)
    assert len(first.patient_hashes) == len(patients)
    monkeypatch.setattr(reading_module, "read_scan", None)  # a second run reads no scan
    again = prepare_source(phantoms.parent / "scans", config(), tmp_path).scans
    for ours, theirs in zip(again.scans, first.scans, strict=True):
        assert_lies_in_its_file(ours.voxels)
        np.testing.assert_array_equal(ours.voxels, theirs.voxels)
        np.testing.assert_array_equal(ours.crop_centres.tissue, theirs.crop_centres.tissue)
        assert (ours.content_hash, ours.spacing_mm) == (theirs.content_hash, theirs.spacing_mm)


@pytest.mark.parametrize("suffix", [".json", ".voxels.npy", ".places.npz", ".mask.npy"])
def test_what_is_damaged_is_prepared_again_and_not_left_out(phantoms, tmp_path, suffix):
    first = prepare_source(phantoms, config(**MASKED), tmp_path).scans
    whole = {path: path.read_bytes() for path in tmp_path.glob(f"*{suffix}")}
    assert len(whole) == 3
    for path, content in whole.items():
        for damaged in (content[: len(content) // 2], b"", b'["x"]', content.replace(b"2.0", b"3.0")):
            path.unlink()  # a memory-mapped file is not truncated
            path.write_bytes(damaged)
            again = prepare_source(phantoms, config(**MASKED), tmp_path)
            assert (again.left_out, again.scans.taught) == ((), first.taught)
            assert suffix == ".places.npz" or path.read_bytes() == content  # an archive contains its creation time


def test_a_damaged_salt_is_named_for_another_would_make_two_of_each_patient(phantoms, tmp_path):
    prepare_source(phantoms, config(), tmp_path / "prepared")
    for damaged in ("", "<html></html>", "ab12"):
        (tmp_path / "prepared/salt").write_text(damaged)
        with pytest.raises(UsageError, match="salt: is damaged; .* Remove the folder prepared, and the same command"):
            prepare_source(phantoms, config(), tmp_path / "prepared")


def test_a_salt_that_is_gone_is_not_made_anew_beside_hashes_that_were_made_with_it(phantoms, tmp_path):
    prepare_source(phantoms, config(), tmp_path / "prepared")
    (tmp_path / "prepared/salt").unlink()
    with pytest.raises(UsageError, match=r"salt: cannot be read \(.*\); .* Remove the folder prepared, and the same"):
        prepare_source(phantoms, config(), tmp_path / "prepared")


def test_it_is_the_source_that_is_read_into_memory(phantoms, tmp_path):
    on_disk = prepare_source(phantoms.parent / "scans", config(), tmp_path).scans
    in_memory = reading_module.read_source(phantoms.parent / "scans", spacing_mm=2.0)
    assert on_disk.content_hashes == in_memory.content_hashes
    for ours, theirs in zip(on_disk.scans, in_memory.scans, strict=True):
        np.testing.assert_array_equal(ours.voxels, theirs.voxels)


def test_a_prepared_file_is_streamed_too(labelled, tmp_path):
    labelled.save(tmp_path / "source.npz")
    found = prepare_source(tmp_path / "source.npz", config(), tmp_path / "prepared")
    assert found.scans.content_hashes == labelled.content_hashes
    assert found.scans.patient_hashes == labelled.patient_hashes
    for scan in found.scans.scans:
        assert_lies_in_its_file(scan.voxels)


def test_regions_and_masks_of_a_table_lie_where_they_do_in_the_scan(phantoms, tmp_path):
    source = prepare_source(phantoms, config(**MASKED), tmp_path).scans
    for scan, row in zip(source.scans, rows(phantoms), strict=True):
        volume = read_scan(phantoms.parent / row["scan"])
        mask = read_mask(phantoms.parent / row["mask"], onto=volume)
        voxels, affine = geometry.canonical(mask.voxels, mask.affine)
        volume_mm3 = float(voxels.sum() * np.prod(geometry.spacing_mm(affine)))
        ours_mm3 = float(scan.mask.sum() / 255 * np.prod(scan.spacing_mm))
        assert ours_mm3 == pytest.approx(volume_mm3, rel=0.15)
        middle = np.argwhere(scan.mask > 100).mean(0)
        np.testing.assert_allclose(middle * scan.spacing_mm, np.array(scan.centre) * scan.spacing_mm, atol=4.0)
        inside = np.unravel_index(np.argmax(scan.mask), scan.mask.shape)
        assert scan.voxels[inside] > -800  # a lesion, not air


def test_two_masks_in_one_scan_are_one(phantoms, tmp_path):
    """Otherwise a crop around one finding would call the other one nothing."""
    first = rows(phantoms)[0]
    nifti = nibabel.load(phantoms.parent / first["mask"])
    other = np.roll(np.asarray(nifti.dataobj), 20, axis=0)
    nibabel.save(nibabel.Nifti1Image(other, nifti.affine), phantoms.parent / "masks/other.nii.gz")
    table = written(phantoms.with_name("two.csv"), [first, first | {"mask": "masks/other.nii.gz"}])
    (one,) = prepare_source(written(table, [first]), config(**MASKED), tmp_path / "one").scans.scans
    (two,) = prepare_source(
        written(table, [first, first | {"mask": "masks/other.nii.gz"}]), config(**MASKED), tmp_path / "two"
    ).scans.scans
    assert two.mask.astype(float).sum() == pytest.approx(2 * one.mask.astype(float).sum(), rel=0.05)
    assert (two.mask >= one.mask).all()


def test_labels_of_a_table_and_rows_for_testing(phantoms, tmp_path):
    lines = [row | {"split": "test" if n == 0 else "train"} for n, row in enumerate(rows(phantoms))]
    table = written(phantoms.with_name("split.csv"), lines)
    settings = {"method": "supervised", "supervised": {"region": "whole"}}
    source = prepare_source(table, config(**settings), tmp_path).scans
    assert [scan.label for scan in source.scans] == [row["label"] for row in lines[1:]]
    assert source.labels.names == tuple(sorted(row["label"] for row in lines))
    assert recognise([line["patient"] for line in lines], source.patient_hashes).keys() == {
        line["patient"] for line in lines[1:]
    }
    for row in lines:
        row["split"] = "test"
    with pytest.raises(CohortError, match=r"split\.csv: every row is marked split=test; expected rows to learn from"):
        prepare_source(written(table, lines), config(**settings), tmp_path)


@pytest.mark.parametrize("method", ["masked_autoencoding", "supervised"])
def test_a_patient_some_of_whose_rows_are_for_testing_is_not_learned_from(phantoms, tmp_path, method):
    lines = [row | {"split": "test" if n == 0 else "train"} for n, row in enumerate(rows(phantoms))]
    lines[-1]["patient"] = lines[0]["patient"] = "planted"
    table = written(phantoms.with_name("divided.csv"), lines)
    with pytest.raises(
        PatientLeak, match=r"divided\.csv: one patient in rows to learn from and in rows marked split=test: row"
    ) as e:
        prepare_source(table, config(method=method, supervised={"region": "whole"}), tmp_path)
    assert "planted" not in str(e.value)


def test_a_table_without_what_the_method_needs(phantoms, tmp_path):
    lines = rows(phantoms)
    lines[1]["mask"] = ""
    table = written(phantoms.with_name("no_mask.csv"), lines)
    with pytest.raises(CohortError, match=r"no_mask\.csv: row 3 .* has no mask; expected a mask in every row"):
        prepare_source(table, config(**MASKED), tmp_path)
    for column in ("roi_x_mm", "roi_y_mm", "roi_z_mm", "roi_size_mm"):
        lines[1][column] = ""
    with pytest.raises(
        CohortError, match=r"no_mask\.csv: .*has no region of interest; .* Or set supervised.region=whole"
    ):
        prepare_source(written(table, lines), config(method="supervised"), tmp_path)
    with pytest.raises(CohortError, match=r"cohort: no table; expected a cohort.csv with a label in every row"):
        prepare_source(phantoms.parent, config(method="supervised"), tmp_path)


def test_what_cannot_be_used_is_recorded_and_the_rest_goes_on(phantoms, tmp_path, caplog):
    volume = read_scan(phantoms.parent / rows(phantoms)[0]["scan"])
    write_nifti(tmp_path / "good.nii.gz", volume.voxels, volume.affine)
    write_nifti(tmp_path / "copy.nii.gz", volume.voxels, volume.affine)
    write_nifti(tmp_path / "mask.nii.gz", (volume.voxels > 0).astype(np.int16), volume.affine)
    write_dicom_series(tmp_path / "slices", volume.voxels, volume.affine)
    for path in sorted((tmp_path / "slices").iterdir())[3:5]:
        path.unlink()
    with caplog.at_level(logging.WARNING, "med_transfer"):
        found = prepare_source(tmp_path, config(), tmp_path / "prepared")
    assert len(found.scans) == 1
    assert {Path(one.scan).name for one in found.left_out} == {"mask.nii.gz", "slices"}
    assert any("nothing but air or uniform matter" in one.reason for one in found.left_out)
    (tmp_path / "good.nii.gz").unlink()
    (tmp_path / "copy.nii.gz").unlink()
    with pytest.raises(NothingDone, match=r"none of 2 scans can be used; expected at least one. The first reason: "):
        prepare_source(tmp_path, config(), tmp_path / "prepared")


def test_another_modality_is_left_out(phantoms, tmp_path):
    with pytest.raises(NothingDone, match="modality CT; expected MR"):
        prepare_source(phantoms.parent / "scans", config(modality="MR"), tmp_path)


def test_no_scan_at_all(tmp_path):
    with pytest.raises(
        ScanNotFound, match=f"{tmp_path.name}: no scan to learn from; expected DICOM, NIfTI, NRRD or MetaImage"
    ):
        prepare_source(tmp_path, config(), tmp_path / "prepared")
    with pytest.raises(ScanNotFound, match="no such file or folder"):
        prepare_source(tmp_path / "nowhere", config(), tmp_path / "prepared")


def test_equal_voxels_are_kept_once(labelled, tmp_path):
    scan = labelled.scans[0]
    for number in range(2):
        cached_scan(tmp_path, f"key{number}", lambda: scan, "scan")
    cached_scan(tmp_path, "key2", lambda: replace(scan, spacing_mm=(1.0, 1.0, 1.0)), "scan")
    assert len(list(tmp_path.glob("*.voxels.npy"))) == 2
