"""Slices lost at an end, halves and copies: volumes that look whole and are not."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil

import numpy as np
import pydicom
import pytest
from dicom_series import hounsfield, plane_affine, write_series
from pydicom.fileset import FileSet

from med_transfer.errors import GeometryRejected, UnreadableScan
from med_transfer.scans import find_series, read_scan, survey

DAMAGE = {
    "empty": lambda file: b"",
    "zeros": lambda file: bytes(len(file)),
    "cut": lambda file: file[:100],
    "web page": lambda file: b"<html><body>404 Not Found</body></html>",
    "one flipped bit": lambda file: file[:128] + b"DICL" + file[132:],
}

# As Python's library packs; Zstandard's frame begins with a number of its own (RFC 8878, 3.1.1).
PACKING = {
    "gzip": (gzip.compress, ".gz"),
    "bzip2": (bz2.compress, ".bz2"),
    "xz": (lzma.compress, ".xz"),
    "Zstandard": (lambda content: b"\x28\xb5\x2f\xfd" + content, ".zst"),
}


def verdicts(folder) -> list[str]:
    return [str(found.verdict) for found in find_series(folder)]


def damage(path, how: str) -> None:
    path.write_bytes(DAMAGE[how](path.read_bytes()))


# Damaged files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("lost", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("name", ["slice{:03d}.dcm", "IM{:04d}", "i{}.MRDC.{}"])
def test_a_damaged_file_that_is_named_as_a_slice_rejects_its_series(tmp_path, how, lost, name):
    paths = write_series(tmp_path, names=[name.format(k, k) for k in range(5)])
    damage(paths[lost], how)
    (series,) = find_series(tmp_path)
    assert str(series.verdict).startswith("reject: damaged files beside it may belong to it")
    assert paths[lost].name in str(series.verdict)
    with pytest.raises(UnreadableScan, match=paths[lost].name):
        read_scan(tmp_path)
    for allowed in (0.0, 5.0):
        with pytest.raises(GeometryRejected, match="damaged files beside it"):
            read_scan(series, max_gap_mm=allowed)


def test_a_damaged_file_of_any_name_that_says_dicom(tmp_path):
    write_series(tmp_path, names=[f"IM{k}" for k in range(5)])
    (tmp_path / "rest.dcm").write_bytes(b"")
    found = survey(tmp_path)
    assert [str(one.verdict) for one in found.series] == ["reject: damaged files beside it may belong to it (rest.dcm)"]
    assert [(file.reason, file.damaged) for file in found.ignored] == [("named as DICOM, but empty", True)]


@pytest.mark.parametrize("method", PACKING)
def test_a_slice_that_was_packed_by_itself_is_lost(tmp_path, method):
    """As some collections publish them: each file through gzip."""
    pack, suffix = PACKING[method]
    for folder, name in (("named", "IM{}.dcm"), ("bare", "IM{}")):
        paths = write_series(tmp_path / folder, names=[name.format(k) for k in range(5)])
        packed = paths[-1].with_name(paths[-1].name + suffix)
        packed.write_bytes(pack(paths[-1].read_bytes()))
        paths[-1].unlink()
        assert verdicts(tmp_path / folder)[0].startswith("reject: damaged files beside it may belong to it")
        assert packed.name in verdicts(tmp_path / folder)[0]
    with pytest.raises(UnreadableScan, match=rf"named as DICOM, but packed with {method}; unpack it"):
        read_scan(tmp_path / "named" / f"IM4.dcm{suffix}")
    for path in (tmp_path / "named").glob("*.dcm"):
        path.unlink()
    (one,) = survey(tmp_path / "named").ignored
    assert (one.damaged, one.reason) == (True, f"named as DICOM, but packed with {method}; unpack it")


@pytest.mark.parametrize("text", ["Patient moved. Dr. Müller\n", "<html>404</html>", "a;b\r\n\t1;2"])
def test_notes_that_are_named_as_dicom_are_set_aside_with_a_remark(tmp_path, text):
    write_series(tmp_path, names=[f"IM{k}.dcm" for k in range(5)])
    (tmp_path / "notes.dcm").write_text(text, encoding="utf-8")
    found = survey(tmp_path)
    remark = "accept: text files lie beside it that are named as DICOM (notes.dcm)"
    assert [str(one.verdict) for one in found.series] == [remark]
    assert [(file.reason, file.damaged) for file in found.ignored] == [("named as DICOM, but it is text", True)]
    assert read_scan(tmp_path).voxels.shape[0] == 5
    (tmp_path / "notes.dcm").rename(tmp_path / "IM5.dcm")  # named as a slice: one may be lost
    assert verdicts(tmp_path)[0].startswith("reject: damaged files beside it may belong to it (IM5.dcm)")


def test_in_a_folder_of_several_series_the_damaged_one_is_found_by_the_names_beside_it(tmp_path):
    write_series(tmp_path, series_uid="1.2.1", names=[f"IM{k}" for k in (1, 2, 3, 4, 5)])
    paths = write_series(tmp_path, hounsfield(), series_uid="1.2.2", names=[f"IM{k}" for k in (6, 7, 8, 9, 10)])
    write_series(tmp_path / "elsewhere", series_uid="1.2.3")
    damage(paths[-1], "empty")
    remark = "damaged files lie beside it and beside other series (IM10): a slice may be missing"
    by_uid = {found.series_uid: str(found.verdict) for found in find_series(tmp_path)}
    assert by_uid["1.2.1"].startswith(f"accept: {remark}")
    assert by_uid["1.2.2"].startswith("reject: damaged files beside it may belong to it (IM10)")
    assert by_uid["1.2.3"] == "accept"


def test_between_two_series_a_damaged_file_may_be_of_either(tmp_path):
    write_series(tmp_path, series_uid="1.2.1", names=[f"IM{k}" for k in (1, 2, 3, 4, 5)])
    paths = write_series(tmp_path, hounsfield(), series_uid="1.2.2", names=[f"IM{k}" for k in (6, 7, 8, 9, 10)])
    damage(paths[0], "web page")
    assert [one.startswith("accept: damaged files lie beside it and beside other") for one in verdicts(tmp_path)] == [
        True,
        True,
    ]


@pytest.mark.parametrize("name", ["readme.txt", "VERSION", "DICOMDIR", "mask.nii.gz"])
def test_other_files_beside_a_series_are_no_slices(tmp_path, name):
    write_series(tmp_path)
    (tmp_path / name).write_bytes(b"not an image")
    assert verdicts(tmp_path) == ["accept"]


def test_an_object_that_is_named_as_the_slices_are_is_no_damaged_slice(tmp_path):
    """A disc names all of its objects alike."""
    write_series(tmp_path, names=[f"IM{k}" for k in range(5)])
    report = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33", "Modality": "SR"}
    write_series(tmp_path, hounsfield((1, 7, 9)), names=["IM5"], **report)
    assert verdicts(tmp_path) == ["accept"]


def test_a_series_that_cannot_be_used_says_only_why(tmp_path):
    paths = write_series(tmp_path, hounsfield((6, 7, 9)), NumberOfSlices=6)
    paths[2].unlink()
    assert verdicts(tmp_path) == ["reject: 1 slice missing: gap 5.00 mm between slices 2 and 3, others 2.50 mm"]


# What counts the images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("keyword", ["NumberOfSlices", "ImagesInAcquisition", "InConcatenationTotalNumber"])
def test_fewer_images_than_the_header_counts(tmp_path, keyword):
    for path in write_series(tmp_path, hounsfield((8, 7, 9)), **{keyword: 8})[:3]:
        path.unlink()
    assert f"accept: {keyword} is 8, 5 are here: slices may be missing" in verdicts(tmp_path)[0]


@pytest.mark.parametrize("keyword", ["NumberOfSlices", "ImagesInAcquisition", "InConcatenationTotalNumber"])
def test_as_many_images_as_the_header_counts(tmp_path, keyword):
    write_series(tmp_path, **{keyword: 5})
    assert verdicts(tmp_path) == ["accept"]


@pytest.mark.parametrize(
    ("kept", "lacking"),
    [
        ([3, 4, 5, 6], "1 to 2"),
        ([1, 2, 3, 5, 6, 7], "4"),
        ([0, 1, 2, 3], ""),
        ([10, 20, 30, 40], ""),
        ([10, 20, 30, 50, 60], "40"),
        ([1, 7, 100, 2000, 5], ""),
    ],
)
def test_gaps_in_the_numbers_of_images(tmp_path, kept, lacking):
    """Those that count by steps, or not at all, say nothing."""
    kept = kept[::-1]
    write_series(tmp_path, hounsfield((len(kept), 7, 9)), change=lambda k, d: setattr(d, "InstanceNumber", kept[k]))
    remark = f"accept: InstanceNumber lacks {lacking}: slices may be missing" if lacking else "accept"
    assert verdicts(tmp_path) == [remark]


def test_echoes_that_share_the_numbering_lack_nothing(tmp_path):
    for echo in (0, 1):
        write_series(
            tmp_path,
            hounsfield(seed=echo),
            series_uid="1.2.3",
            modality="MR",
            names=[f"{echo}{k}" for k in range(5)],
            EchoTime=10 * echo + 1,
            change=lambda k, d, echo=echo: setattr(d, "InstanceNumber", 2 * k + echo + 1),
        )
    assert verdicts(tmp_path) == ["accept", "accept"]


def test_a_phase_that_is_shorter_than_the_other_is_said(tmp_path):
    for number, count in ((1, 8), (2, 6)):
        stem = [f"{number}{k}" for k in range(count)]
        write_series(
            tmp_path, hounsfield((count, 7, 9), number), series_uid="1.2.3", names=stem, AcquisitionNumber=number
        )
    assert verdicts(tmp_path) == [
        "accept",
        "accept: another volume of the series has 8 slices: slices may be missing",
    ]


def with_dicomdir(folder, **tags):
    """A series as a disc holds it: DICOMDIR, and files in a folder beside it."""
    stated = {"StudyID": "1", "SeriesNumber": 1, "StudyDate": "20200101", "StudyTime": "101500", "AccessionNumber": ""}
    disc = FileSet()
    with disc._stage["t"]:  # otherwise its end gives a warning
        for path in write_series(folder / "raw", **stated, **tags):
            disc.add(path)
        disc.write(folder / "disc")
    disc._stage["t"].cleanup()
    shutil.rmtree(folder / "raw")
    return folder / "disc"


def test_images_that_a_dicomdir_lists_and_are_not_there(tmp_path):
    disc = with_dicomdir(tmp_path)
    assert verdicts(disc) == ["accept"]
    images = sorted(path for path in disc.rglob("*") if path.is_file() and path.name != "DICOMDIR")
    by_place = sorted(images, key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))
    by_place[-1].unlink()
    assert verdicts(disc)[0].startswith("reject: 1 of 5 images that the DICOMDIR lists for this series are not here")
    with pytest.raises(GeometryRejected, match="1 of 5 images that the DICOMDIR lists"):
        read_scan(disc, max_gap_mm=10.0)


def test_a_damaged_dicomdir_says_nothing(tmp_path):
    disc = with_dicomdir(tmp_path)
    (disc / "DICOMDIR").write_bytes((disc / "DICOMDIR").read_bytes()[:400])
    assert verdicts(disc) == ["accept"]


# Halves and copies --------------------------------------------------------------------------------------------


def test_an_export_over_two_folders_with_a_slice_in_both_is_one_volume(tmp_path):
    paths = write_series(tmp_path / "a", hounsfield((8, 7, 9)))
    (tmp_path / "b").mkdir()
    shutil.copy(paths[4], tmp_path / "b")
    for path in paths[5:]:
        path.rename(tmp_path / "b" / path.name)
    assert verdicts(tmp_path) == ["repair: 1 identical copies dropped, at the position of slices 5"]
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, hounsfield((8, 7, 9)))


def test_a_partial_copy_beside_the_whole_is_rejected(tmp_path):
    paths = write_series(tmp_path / "whole", hounsfield((8, 7, 9)))
    (tmp_path / "some").mkdir()
    for path in paths[2:6]:
        shutil.copy(path, tmp_path / "some")
    by_folder = {found.path.name: str(found.verdict) for found in find_series(tmp_path)}
    assert by_folder == {
        "whole": "accept",
        "some": "reject: part of a series: the folder whole holds these images and more",
    }
    assert read_scan(tmp_path).voxels.shape == (8, 7, 9)


@pytest.mark.parametrize("keyword", ["PatientID", "StudyInstanceUID"])
@pytest.mark.parametrize("which", [lambda k: k < 4, lambda k: k % 2], ids=["halves", "odd and even"])
def test_a_volume_whose_patient_or_study_changes_is_rejected(tmp_path, keyword, which):
    def change(k, dataset):
        if which(k):
            setattr(dataset, keyword, "1.9.9")

    write_series(tmp_path, hounsfield((8, 7, 9)), change=change)
    assert verdicts(tmp_path) == ["reject: PatientID or StudyInstanceUID changes within the volume"] * 2


def test_one_series_uid_of_two_patients_is_said(tmp_path):
    write_series(tmp_path / "x", series_uid="1.2.3")
    write_series(tmp_path / "y", series_uid="1.2.3", PatientID="another")
    assert verdicts(tmp_path) == ["accept: SeriesInstanceUID stands for 2 patients or studies"] * 2


@pytest.mark.parametrize("folders", [("a", "a"), ("a", "b")], ids=["one folder", "two folders"])
def test_one_uid_for_all_images_is_one_volume_and_said(tmp_path, folders):
    for path in write_series(tmp_path / "a", SOPInstanceUID="1.2.3")[3:]:
        (tmp_path / folders[1]).mkdir(exist_ok=True)
        path.rename(tmp_path / folders[1] / path.name)
    assert verdicts(tmp_path) == ["accept: 5 images share a SOPInstanceUID that should be each one's own"]
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, hounsfield())


@pytest.mark.parametrize(
    "changed",
    [{"SeriesInstanceUID": "1.2.9"}, {"ImageOrientationPatient": [1, 0, 0, 0, 5, 0]}, {"AcquisitionNumber": 9}],
)
@pytest.mark.parametrize("lost", [0, 4], ids=["first", "last"])
def test_a_slice_that_one_damaged_value_takes_from_the_end_of_a_volume_is_not_lost_in_silence(tmp_path, changed, lost):
    def change(k, dataset):
        if k == lost:
            for keyword, value in changed.items():
                setattr(dataset, keyword, value)

    write_series(tmp_path, series_uid="1.2.3", change=change, names=[f"{k}" for k in range(5)], AcquisitionNumber=1)
    (whole,) = [found for found in find_series(tmp_path) if found.n_slices > 1]
    assert whole.n_slices == 5 or "an image that was set apart continues this volume" in str(whole.verdict)


def test_a_scout_beside_a_volume_is_none_of_its_slices(tmp_path):
    write_series(tmp_path, series_uid="1.2.3")
    write_series(tmp_path, hounsfield((1, 7, 9)), plane_affine("coronal"), series_uid="1.2.3", names=["scout"])
    assert verdicts(tmp_path)[0] == "accept"
