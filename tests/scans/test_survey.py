"""What a search of a folder tree finds, groups and omits."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_series import SECRETS, as_image, hounsfield, plane_affine, write_series
from planted import leaked
from pydicom.uid import UID, MediaStorageDirectoryStorage

from med_transfer.errors import ScanNotFound, UnreadableScan
from med_transfer.scans import Ignored, Survey, find_series, identity, read_scan, survey
from med_transfer.scans.search.damaged_files import beside_damage
from med_transfer.scans.stamps import stamps

SEGMENTATION, STRUCTURE_SET, REPORT, PRESENTATION, KEY_OBJECT = (
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.481.3",
    "1.2.840.10008.5.1.4.1.1.88.33",
    "1.2.840.10008.5.1.4.1.1.11.1",
    "1.2.840.10008.5.1.4.1.1.88.59",
)


def test_series_of_all_formats_in_one_tree(tmp_path):
    write_series(tmp_path / "p1" / "ct", series_uid="1.2.3")
    write_series(tmp_path / "p1" / "mr", series_uid="1.2.4", modality="MR")
    for name in ("a.nii", "b.nii.gz", "c.nrrd", "d.nhdr", "e.mha", "f.mhd"):
        SimpleITK.WriteImage(as_image(hounsfield(), plane_affine()), tmp_path / name)
    found = {(one.path.name, one.format, one.modality, one.n_slices) for one in find_series(tmp_path)}
    assert found == {
        ("ct", "dicom", "CT", 5),
        ("mr", "dicom", "MR", 5),
        ("a.nii", "nifti", "", 5),
        ("b.nii.gz", "nifti", "", 5),
        ("c.nrrd", "nrrd", "", 5),
        ("d.nhdr", "nrrd", "", 5),
        ("e.mha", "metaimage", "", 5),
        ("f.mhd", "metaimage", "", 5),
    }
    assert {one.path.suffix for one in survey(tmp_path).ignored} == {".raw"}


def test_two_series_in_one_folder(tmp_path):
    write_series(tmp_path, series_uid="1.2.3", Manufacturer="A", SeriesDescription="thin")
    write_series(tmp_path, series_uid="1.2.4", names=["1", "2", "3", "4", "5"], SeriesDescription="thick")
    found = find_series(tmp_path)
    assert [(one.series_uid, identity(one).description, one.n_slices) for one in found] == [
        ("1.2.3", "thin", 5),
        ("1.2.4", "thick", 5),
    ]


def test_localizer_with_the_uid_of_the_ct_is_split_off(tmp_path):
    write_series(tmp_path, series_uid="1.2.3")
    write_series(
        tmp_path,
        hounsfield((1, 7, 9)),
        plane_affine("coronal"),
        series_uid="1.2.3",
        names=["scout"],
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )
    verdicts = {one.n_slices: str(one.verdict) for one in find_series(tmp_path)}
    assert verdicts == {5: "accept", 1: "reject: localizer (scout) images, not a volume"}
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, hounsfield())
    np.testing.assert_array_equal(read_scan(tmp_path, "1.2.3").voxels, hounsfield())


@pytest.mark.parametrize(
    ("modality", "sop_class"),
    [("SEG", SEGMENTATION), ("RTSTRUCT", STRUCTURE_SET), ("SR", REPORT), ("PR", PRESENTATION), ("KO", KEY_OBJECT)],
)
def test_objects_that_are_no_images_are_ignored(tmp_path, modality, sop_class):
    write_series(tmp_path)
    write_series(tmp_path, hounsfield((1, 7, 9)), names=["other"], SOPClassUID=sop_class, Modality=modality)
    found = survey(tmp_path)
    assert [str(one.verdict) for one in found.series] == ["accept"]
    reason = f"{modality} object ({UID(sop_class).name}), not an image"
    assert found.ignored == (Ignored(tmp_path / "other", reason),)


def test_dicomdir_hidden_files_and_text(tmp_path):
    paths = write_series(tmp_path)
    directory = pydicom.dcmread(paths[0])
    directory.clear()
    directory.FileSetID = "DISC"
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.save_as(tmp_path / "DICOMDIR")
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / ".DS_Store").write_bytes(b"\0" * 200)
    (tmp_path / ".hidden").mkdir()
    shutil.copy(paths[0], tmp_path / ".hidden" / "copy.dcm")
    found = survey(tmp_path)
    assert [(one.n_slices, str(one.verdict)) for one in found.series] == [(5, "accept")]
    assert {one.path.name: one.reason for one in found.ignored} == {
        "DICOMDIR": "DICOM object (Media Storage Directory Storage), not an image",
        "readme.txt": "not an image file",
    }


def test_series_spread_over_folders_is_one(tmp_path):
    paths = write_series(tmp_path / "x")
    (tmp_path / "y").mkdir()
    for path in paths[3:]:
        path.rename(tmp_path / "y" / path.name)
    (series,) = find_series(tmp_path)
    assert (series.path, series.n_slices, str(series.verdict)) == (tmp_path, 5, "accept")
    np.testing.assert_array_equal(read_scan(series).voxels, hounsfield())


def test_copies_in_two_folders_are_two(tmp_path):
    write_series(tmp_path / "x")
    shutil.copytree(tmp_path / "x", tmp_path / "y")
    found = find_series(tmp_path)
    assert [(one.path.name, str(one.verdict)) for one in found] == [("x", "accept"), ("y", "accept")]
    assert found[0].series_uid == found[1].series_uid


def test_one_series_uid_for_two_patients_stays_two(tmp_path):
    write_series(tmp_path / "x", series_uid="1.2.3")
    write_series(tmp_path / "y", series_uid="1.2.3", PatientID="another")
    assert [one.verdict.decision for one in find_series(tmp_path)] == ["accept", "accept"]


def test_missing_series_uid_groups_by_folder(tmp_path):
    for folder in ("x", "y"):
        write_series(tmp_path / folder, SeriesInstanceUID="")
    assert [one.n_slices for one in find_series(tmp_path)] == [5, 5]


@pytest.fixture
def store(tmp_path):
    """A series elsewhere, and a tree that will hold links."""
    write_series(tmp_path / "store" / "ct")
    (tmp_path / "cohort").mkdir()
    return tmp_path / "store" / "ct"


def test_links_out_of_the_tree_are_followed_when_asked_and_once(store, monkeypatch):
    cohort = store.parents[1] / "cohort"
    (cohort / "case").symlink_to(store, target_is_directory=True)
    (store / "loop").symlink_to(cohort, target_is_directory=True)
    elsewhere = "link to a folder elsewhere, not followed (MED_TRANSFER_FOLLOW_LINKS=1 follows it)"
    assert survey(cohort) == Survey((), (Ignored(cohort / "case", elsewhere),))
    assert stamps([cohort]) == []
    with pytest.raises(ScanNotFound, match=r"cohort: no image among 1 file;.*MED_TRANSFER_FOLLOW_LINKS=1"):
        read_scan(cohort)
    assert find_series(cohort / "case")[0].n_slices == 5
    monkeypatch.setenv("MED_TRANSFER_FOLLOW_LINKS", "1")
    (series,) = find_series(cohort)
    assert (series.n_slices, series.path) == (5, cohort / "case")
    assert len(stamps([cohort])) == 5


def test_links_elsewhere_are_told_of_where_something_else_was_found(store, tmp_path, caplog):
    write_series(tmp_path / "mine" / "ct")
    (tmp_path / "mine" / "more").symlink_to(store, target_is_directory=True)
    for _ in range(2):
        assert len(find_series(tmp_path / "mine")) == 1
    told = "links to folders elsewhere are left out. MED_TRANSFER_FOLLOW_LINKS=1 follows the links"
    assert [told in message for message in caplog.messages] == [True]


def test_links_within_the_tree_are_no_copies(tmp_path):
    paths = write_series(tmp_path / "b" / "real")
    (tmp_path / "a").mkdir()
    for path in paths:
        (tmp_path / "a" / path.name).symlink_to(path)
    (tmp_path / "c").symlink_to(tmp_path / "b", target_is_directory=True)
    (tmp_path / "b" / "up").symlink_to(tmp_path, target_is_directory=True)
    found = survey(tmp_path)
    assert [(one.path, str(one.verdict)) for one in found.series] == [(tmp_path / "b" / "real", "accept")]
    assert {file.reason for file in found.ignored} == {"link to something that is found at its own place"}
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, hounsfield())


def test_links_to_files_elsewhere_and_to_hidden_ones_are_files(store):
    """As git-annex keeps them."""
    cohort = store.parents[1] / "cohort"
    (cohort / ".annex").mkdir()
    for number, path in enumerate(sorted(store.iterdir())):
        target = path.rename(cohort / ".annex" / path.name) if number < 2 else path
        (cohort / path.name).symlink_to(target)
    assert [(one.n_slices, str(one.verdict)) for one in find_series(cohort)] == [(5, "accept")]


def test_a_broken_link_rejects_nothing(tmp_path):
    write_series(tmp_path / "ct")
    (tmp_path / "ct" / "slice999.dcm").symlink_to("/nowhere/x.dcm")
    (tmp_path / "ct" / "ring").symlink_to(tmp_path / "ct" / "ring")
    found = survey(tmp_path)
    verdict = "accept: broken links lie beside it (slice999.dcm): a slice may be missing"
    assert [str(one.verdict) for one in found.series] == [verdict]
    assert [(file.path.name, file.reason, file.damaged) for file in found.ignored] == [
        ("ring", "broken link", False),
        ("slice999.dcm", "broken link", True),
    ]
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, hounsfield())


def test_one_bad_file_never_stops_the_search(tmp_path):
    write_series(tmp_path / "ct")
    (tmp_path / "bad.nii.gz").write_bytes(b"\x1f\x8b\x08\x00garbage")
    (tmp_path / "bad.nrrd").write_text("nothing")
    (tmp_path / "empty.mha").write_bytes(b"")
    (tmp_path / "bad.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00")
    found = survey(tmp_path)
    assert [str(one.verdict) for one in found.series] == ["accept"]
    assert {one.path.name for one in found.ignored} == {"bad.nii.gz", "bad.nrrd", "empty.mha", "bad.dcm"}


def test_damaged_neighbour_rejects_the_series(tmp_path):
    """The last slice is unreadable; without it the others look complete, so nobody may use them."""
    paths = write_series(tmp_path)
    paths[-1].write_bytes(paths[-1].read_bytes()[:300])
    (series,) = find_series(tmp_path)
    assert str(series.verdict).startswith("reject: damaged files beside it may belong to it (slice004.dcm)")
    with pytest.raises(UnreadableScan, match=r"slice004\.dcm: image without Rows and Columns: damaged or truncated"):
        read_scan(tmp_path)


def test_digits_that_are_no_numbers(tmp_path):
    """A superscript counts as a digit, and is none that a number can be made of."""
    paths = write_series(tmp_path, ImagesInAcquisition="57")
    for path in paths:
        tag = b"\x20\x00\x02\x10IS\x02\x00"
        path.write_bytes(path.read_bytes().replace(tag + b"57", tag + b"\xb2 "))
    (tmp_path / "\N{SUPERSCRIPT TWO}1.dcm").touch()
    (series,) = survey(tmp_path).series
    assert str(series.verdict).startswith("reject: damaged files beside it may belong to it")


def test_the_files_beside_are_gone_through_once_for_all_series(tmp_path):
    """A tree of ten thousand series and a hundred thousand other files took minutes for it."""

    class Counted(list):
        times = 0

        def __iter__(self):
            self.times += 1
            return super().__iter__()

    for number in range(5):
        write_series(tmp_path / f"{number}")
    ignored = Counted([Ignored(tmp_path / "3" / "slice002a.dcm", "damaged", damaged=True)])
    series = beside_damage(survey(tmp_path).series, ignored)
    assert ignored.times == 1
    assert [one.verdict.decision for one in series] == ["accept"] * 3 + ["reject", "accept"]


def test_empty_folder(tmp_path):
    found = survey(tmp_path)
    assert found.series == found.ignored == ()


def test_missing_folder(tmp_path):
    with pytest.raises(ScanNotFound, match=r"absent: no such file or folder"):
        survey(tmp_path / "absent")


def test_survey_of_one_file(tmp_path):
    SimpleITK.WriteImage(as_image(hounsfield(), plane_affine()), tmp_path / "a.nii.gz")
    assert [one.format for one in find_series(tmp_path / "a.nii.gz")] == ["nifti"]


def test_no_patient_data_in_the_survey(tmp_path):
    write_series(tmp_path, offsets=[0, 1, 2, 4, 5], SeriesDescription="DOE^JANE thorax")
    printed = repr(survey(tmp_path))
    assert leaked(SECRETS, printed) == []


def test_no_permission(as_nobody):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_series(folder / "ct")
        paths[2].chmod(0)
        SimpleITK.WriteImage(as_image(hounsfield(), plane_affine()), folder / "a.nii.gz")
        (folder / "a.nii.gz").chmod(0)
        found = survey(folder)
        assert [one.verdict.decision for one in found.series] == ["reject"]
        with pytest.raises(UnreadableScan, match=r"slice002\.dcm: cannot be opened \(PermissionError\)"):
            read_scan(folder / "ct")
        with pytest.raises(UnreadableScan, match=r"a\.nii\.gz: no permission to read the file"):
            read_scan(folder / "a.nii.gz")
        closed = folder / "closed"
        closed.mkdir(0o000)
        with pytest.raises(UnreadableScan, match=r"closed: no readable image"):
            read_scan(closed)
        with pytest.raises(UnreadableScan, match=r"scan\.nii: no permission to look into the folder"):
            read_scan(closed / "scan.nii")
        closed.chmod(0o700)


def test_a_tree_of_many_files_says_how_far_it_is(tmp_path):
    for number in range(130):
        (tmp_path / f"{number}.txt").write_text("no scan")
    told: list[tuple[str, int, int]] = []
    survey(tmp_path, progress=lambda stage, done, total, note="": told.append((stage, done, total)))
    assert told == [("looking through files", done, 0) for done in (1, 65, 129)]
