"""From a hospital's export to a cohort table: what is listed, why, and that no file reveals whose scans they are."""

from __future__ import annotations

import csv
import itertools
import os
import re
import shutil
import stat
import tempfile
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hospital_export import SECRETS, export_series, leaks
from killed import killed_at
from pydicom import dcmread

from med_transfer.atomic.sole_writer import sole_writer_of
from med_transfer.cohorts import Cohort
from med_transfer.cohorts.indexing import Index, IndexSettings, write_index
from med_transfer.errors import CohortError, FolderInUse, OutputError, ScanNotFound, UsageError
from med_transfer.scans import read_scan
from med_transfer.scans.search.series_rules import SeriesRules

SOFT_FIRST = SeriesRules.model_validate({"prefer": [{"kernel": "^B3"}]})


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def export(tmp_path) -> Path:
    """Two patients of one study each: soft, sharp and a scout; soft and one with a gap. And what lies about."""
    folder = tmp_path / "export"
    for patient in "ab":
        own = {
            "StudyInstanceUID": f"1.2.{ord(patient)}",
            "PatientID": f"SECRETID-{patient}",
            "AccessionNumber": f"SECRETACC-{patient}",
        }
        for number, kernel in enumerate(("B70f", "B30f"), start=1):
            uid = f"1.2.{ord(patient)}.{number}"
            paths = export_series(folder / patient / kernel, SeriesInstanceUID=uid, ConvolutionKernel=kernel, **own)
    paths[2].unlink()  # b's soft kernel
    scout = {"SeriesInstanceUID": "1.2.97.3", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    export_series(folder / "a/scout", 1, StudyInstanceUID="1.2.97", PatientID="SECRETID-a", **scout)
    nibabel.save(nibabel.Nifti1Image(np.arange(1000, dtype=np.int16).reshape(10, 10, 10), np.eye(4)), folder / "n.nii")
    (folder / "letter.txt").write_text("Dear colleague,")
    (folder / "cut.nii.gz").write_bytes(b"\x1f\x8b" + bytes(range(200)))
    return folder


@pytest.fixture
def index(export, tmp_path):
    """Index the export, with the options that are asked for."""

    def write(labels: Path | None = None, **options):
        return write_index(export, tmp_path / "out/cohort.csv", labels, IndexSettings(**options))

    return write


def test_without_rules_every_usable_series_is_listed(index):
    found = index()
    assert [row["scan"] for row in rows(found.cohort)] == [
        "../export/a/B30f",
        "../export/a/B70f",
        "../export/b/B70f",
        "../export/n.nii",
    ]
    assert [row["choice"] for row in rows(found.cohort)] == [
        *["one of 2 usable series of its study; no rules given"] * 2,
        "only usable series of its study",
        "names no study: stands alone",
    ]
    assert (found.n_listed, found.n_not_chosen, found.n_rejected, found.n_ignored) == (4, 0, 2, 2)


def test_with_rules_one_series_a_study(index):
    found = index(rules=SOFT_FIRST)
    assert [row["series_uid"] for row in rows(found.cohort)] == ["1.2.97.2", "1.2.98.1", ""]
    assert (found.n_listed, found.n_not_chosen, found.n_unlabelled, found.n_rejected) == (3, 1, 0, 2)
    choices = {row["series_uid"]: row["choice"] for row in rows(found.quality) if row["series_uid"]}
    assert choices == {
        "1.2.97.1": "not chosen: prefers kernel B30f of series 1.2.97.2 over kernel B70f",
        "1.2.97.2": "chosen: prefers kernel B30f over kernel B70f of series 1.2.97.1",
        "1.2.97.3": "not usable: see its verdict",
        "1.2.98.1": "chosen: only usable series of its study",
        "1.2.98.2": "not usable: see its verdict",
    }


def test_quality_table_has_every_series_with_its_reason(index):
    row = next(row for row in rows(index().quality) if row["series_uid"] == "1.2.97.2")
    assert row | {"slice_thickness_mm": ""} == {
        "scan": "../export/a/B30f",
        "series_uid": "1.2.97.2",
        "modality": "CT",
        "format": "dicom",
        "files": "6",
        "n_slices": "6",
        "size": "24 x 20 x 6",
        "spacing_mm": "2 x 2 x 2.5",
        "plane": "axial",
        "orientation": "LPS",
        "kernel": "B30f",
        "slice_thickness_mm": "",
        "verdict": "accept",
        "reasons": "",
        "choice": "one of 2 usable series of its study; no rules given",
    }
    reasons = {row["series_uid"]: row["reasons"] for row in rows(index().quality) if row["verdict"] == "reject"}
    assert reasons["1.2.97.3"] == "localizer (scout) images, not a volume"
    assert reasons["1.2.98.2"].startswith("1 slice missing: gap 5.00 mm between slices 2 and 3")


def test_quality_table_accounts_for_every_file(index, export):
    found = index()
    on_disk = len([path for path in export.rglob("*") if path.is_file()])
    assert found.n_files == on_disk == sum(int(row["files"]) for row in rows(found.quality))
    others = {row["scan"]: (row["verdict"], row["reasons"]) for row in rows(found.quality) if not row["format"]}
    assert others["../export/letter.txt"] == ("no scan", "not an image file")
    assert others["../export/cut.nii.gz"][0] == "damaged"
    assert len(others) == found.n_ignored == 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rules": SOFT_FIRST},
        {
            "rules": SeriesRules.model_validate(
                {"require": [{"description": "secretseries"}], "exclude": [{"description": "another"}]}
            )
        },
    ],
)
def test_nothing_of_a_patient_in_any_file(index, options, tmp_path):
    found = index(**options)
    written = found.cohort.read_text() + found.quality.read_text() + str(found)
    assert "SECRET" not in written
    assert leaks(written) == []
    assert found.n_listed > 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cohort.csv", "cohort.quality.csv", "patients.key"}


def test_the_same_patient_has_the_same_pseudonym_in_every_table_beside_one_key(index, tmp_path):
    first = index()
    key = tmp_path / "out/patients.key"
    assert (first.key, stat.S_IMODE(key.stat().st_mode), len(key.read_text())) == (key, 0o600, 65)
    patients, secret = [row["patient"] for row in rows(first.cohort)], key.read_text()
    assert patients[0] == patients[1] != patients[2] != patients[3]
    assert all(re.fullmatch("P[0-9a-f]{12}", patient) for patient in patients)
    again = index(rules=SeriesRules())
    assert {row["patient"] for row in rows(again.cohort)} <= set(patients)
    assert key.read_text() == secret
    key.unlink()  # without the secret they differ
    assert {row["patient"] for row in rows(index().cohort)}.isdisjoint(patients)
    with pytest.raises(
        CohortError, match=r"nokey: key cannot be read \(No such file.*Name the key of an earlier index"
    ):
        index(key_file=tmp_path / "nokey")


def test_patients_have_the_pseudonyms_of_a_key_that_was_named_or_are_themselves_when_asked(index, tmp_path):
    (tmp_path / "key").write_text("0123456789abcdef")
    hashed = [row["patient"] for row in rows(index(key_file=tmp_path / "key").cohort)]
    assert hashed == [row["patient"] for row in rows(index(key_file=tmp_path / "key", rules=SeriesRules()).cohort)] or (
        hashed[0] == hashed[1] != hashed[2]
    )
    found = index(keep_patient_ids=True)
    assert (found.key, (tmp_path / "out/patients.key").exists()) == (None, False)
    kept = [row["patient"] for row in rows(found.cohort)]
    assert kept[:3] == ["SECRETID-a", "SECRETID-a", "SECRETID-b"]


def test_a_patient_under_two_spellings_has_one_pseudonym_and_that_is_told(tmp_path, caplog):
    """A pseudonym of each spelling would hide from the table that they are alike, and the split would part them."""
    spellings = ("SECRETID 7", "secretid  7", "SECRETID-7", "SECRETID\u20137", "0012", "12", "13")
    for number, patient in enumerate(spellings):
        uid = f"1.2.{number}"
        own = {"StudyInstanceUID": uid, "SeriesInstanceUID": f"{uid}.1", "PatientID": patient}
        export_series(tmp_path / uid, SpecificCharacterSet="ISO_IR 192", **own)
    volume = nibabel.Nifti1Image(np.arange(1000, dtype=np.int16).reshape(10, 10, 10), np.eye(4))
    for name in ("n 1.nii", "n  1.nii"):  # files whose names are alike are not of one patient
        nibabel.save(volume, tmp_path / name)
    found = write_index(tmp_path, tmp_path / "out/cohort.csv")
    patients = {row["scan"]: row["patient"] for row in rows(found.cohort)}
    ids = [patients[f"../1.2.{number}"] for number in range(7)]
    assert [ids.index(one) for one in ids] == [0, 0, 2, 2, 4, 4, 6]
    assert patients["../n 1.nii"] != patients["../n  1.nii"]
    (told,) = (record.getMessage() for record in caplog.records if "one pseudonym" in record.getMessage())
    assert "the names of 3 patients are spelt in several ways" in told
    assert "../1.2.0 with ../1.2.1, ../1.2.2 with ../1.2.3, ../1.2.4 with ../1.2.5" in told
    assert leaks(told) == []


def test_table_leads_back_to_the_scans_and_the_choice_is_no_subgroup(index):
    cohort = Cohort.read(index().cohort, labelled=False)
    assert {tuple(case.columns) for case in cohort.cases} == {("modality", "n_slices")}
    for case in cohort.cases:
        assert read_scan(case.path, case.series_uid).voxels.ndim == 3


def test_labels_are_linked_after_the_choice_and_keep_their_own_columns(index, tmp_path):
    sheet = tmp_path / "labels.csv"
    sheet.write_text("patient,label,kernel,size\nSECRETID-a,benign,my,5\nSECRETID-b,malignant,own,7\n")
    found = index(labels=sheet, rules=SOFT_FIRST)
    assert (found.n_listed, found.n_not_chosen, found.n_unlabelled) == (2, 1, 1)
    listed = rows(found.cohort)
    assert [(row["label"], row["kernel"], row["size"]) for row in listed] == [
        ("benign", "my", "5"),
        ("malignant", "own", "7"),
    ]
    assert [row["kernel"] for row in rows(found.quality)][:2] == ["B30f", "B70f"]
    assert leaks(found.cohort.read_text()) == []
    assert Cohort.read(found.cohort).labels.names == ("benign", "malignant")


def test_labels_that_fit_nothing(index, tmp_path):
    (tmp_path / "labels.csv").write_text("series_uid,label\n9.9,x\n")
    with pytest.raises(CohortError, match=r"labels\.csv: none of 1 row matches a series by series_uid"):
        index(labels=tmp_path / "labels.csv")
    assert not (tmp_path / "out").exists()


def test_uneven_slices_within_a_limit(index):
    assert index(max_gap_mm=4.9).n_rejected == 2
    found = index(max_gap_mm=5.0)
    assert found.n_rejected == 1
    (repaired,) = [row for row in rows(found.quality) if row["verdict"] == "repair"]
    assert "interpolated between the true positions" in repaired["reasons"]


def test_links_are_named_as_the_user_named_them(export, tmp_path):
    (tmp_path / "named").symlink_to(export, target_is_directory=True)
    found = write_index(tmp_path / "named", tmp_path / "cohort.csv")
    assert rows(found.cohort)[0]["scan"] == "named/a/B30f"


def test_names_that_begin_or_end_with_a_space_lead_back_to_their_scans(tmp_path):
    """Cells of a table are read without surrounding space, which a spreadsheet adds."""
    voxels = np.random.default_rng(0).normal(0, 300, (8, 8, 8)).astype(np.int16)
    for name in (" first", "last ", "\u00a0both ", "in the middle"):
        (tmp_path / "scans" / name).mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "scans" / name / "a.nii.gz")
        shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "scans" / name)
        (tmp_path / "packed.zip").rename(tmp_path / "scans" / f"{name} zip ")
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "scans" / " b.nii.gz")
    found = write_index(tmp_path / "scans", tmp_path / "scans/cohort.csv")
    assert all(case.path.exists() for case in Cohort.read(found.cohort, labelled=False).cases)


def test_nothing_there(tmp_path):
    (tmp_path / "letter.txt").write_text("x")
    with pytest.raises(ScanNotFound, match=f"{tmp_path.name}: no series among 1 file;"):
        write_index(tmp_path, tmp_path / "cohort.csv")


def test_table_that_cannot_be_written(export, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match=r"cannot be written"):
        write_index(export, tmp_path / "taken")


def test_a_table_that_another_run_makes_is_left_to_it(index, tmp_path):
    with sole_writer_of(tmp_path / "out/cohort.csv"), pytest.raises(FolderInUse, match="cohort.csv: another run"):
        index()
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_wherever_it_writes_the_same_command_makes_the_same_tables(index, tmp_path):
    out, key = tmp_path / "out", tmp_path / "key"
    for moment in itertools.count(1):
        killed = killed_at(moment, index)
        shutil.copy(index().key, key)
        there = {path.name: path.read_bytes() for path in out.iterdir()}
        assert set(there) == {"cohort.csv", "cohort.quality.csv", "patients.key"}
        shutil.rmtree(out)
        if not killed:
            break
        undisturbed = index(key_file=key).cohort
        assert undisturbed.read_bytes() == there["cohort.csv"]
        shutil.rmtree(out)
    assert moment > 3


def test_result_names_what_was_written(index):
    found = index()
    assert isinstance(found, Index)
    assert found.quality.name == "cohort.quality.csv"
    assert SECRETS["PatientID"] not in repr(found)


def linked(index, tmp_path, text, **options):
    """The index with a label sheet, and its remarks by row."""
    (tmp_path / "labels.csv").write_text(text)
    found = index(labels=tmp_path / "labels.csv", **options)
    return found, {remark.row: remark.text for remark in found.remarks}


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("study_uid", ("1.2.97", "1.2.98")),
        ("StudyInstanceUID", ("1.2.97", "1.2.98")),
        ("accession", ("SECRETACC-a", "SECRETACC-b")),
        ("AccessionNumber", ("SECRETACC-a", "SECRETACC-b")),
        ("PatientID", ("SECRETID-a", "SECRETID-b")),
        ("SeriesInstanceUID", ("1.2.97.2", "1.2.98.1")),
        ("Accession Number", ("SECRETACC-a", "SECRETACC-b")),
        ("patient_id", ("SECRETID-a", "SECRETID-b")),
    ],
)
def test_labels_are_linked_by_whatever_names_a_study(index, tmp_path, column, values):
    text = f"{column},label\n{values[0]},benign\n{values[1]},malignant\n"
    found, remarks = linked(index, tmp_path, text, rules=SOFT_FIRST)
    assert [row["label"] for row in rows(found.cohort)] == ["benign", "malignant"]
    assert remarks == {}
    assert "SECRET" not in found.cohort.read_text() + found.quality.read_text() + repr(found)


def test_an_identifier_that_the_sheet_has_beside_a_name_of_its_own_is_not_written(index, tmp_path):
    text = (
        "series_uid,patient,PatientID,accession,AccessionNumber,label\n"
        "1.2.97.2,anna,SECRETID-a,1,SECRETACC-a,benign\n1.2.98.1,bert,SECRETID-b,2,SECRETACC-b,malignant\n"
    )
    found, _ = linked(index, tmp_path, text, rules=SOFT_FIRST)
    assert [row["label"] for row in rows(found.cohort)] == ["benign", "malignant"]
    assert "SECRET" not in found.cohort.read_text() + found.quality.read_text()


@pytest.mark.parametrize("column", ["Patient", "patient_id", "PATIENT ID", "PatientName", "Birth date"])
def test_who_it_is_is_not_written_however_the_sheet_calls_the_column(index, tmp_path, column):
    sheet_rows = "1.2.97.2,anna,1,SECRET-a,benign\n1.2.98.1,bert,2,SECRET-b,malignant\n"
    text = f"series_uid,patient,accession,{column},label\n{sheet_rows}"
    found, _ = linked(index, tmp_path, text, rules=SOFT_FIRST)
    assert [row["label"] for row in rows(found.cohort)] == ["benign", "malignant"]
    assert "SECRET" not in found.cohort.read_text() + found.quality.read_text()


def test_an_accession_number_that_pandas_wrote_as_a_decimal_is_found(tmp_path):
    for study in "12":
        uids = {"StudyInstanceUID": f"1.2.{study}", "SeriesInstanceUID": f"1.2.{study}.1"}
        export_series(tmp_path / "export" / study, AccessionNumber=f"470{study}", **uids)
    (tmp_path / "labels.csv").write_text("accession,label\n4701.0,benign\n4702.0,malignant\n,benign\n")
    found = write_index(tmp_path / "export", tmp_path / "cohort.csv", tmp_path / "labels.csv")
    assert [row["label"] for row in rows(found.cohort)] == ["benign", "malignant"]
    assert [remark.row for remark in found.remarks] == [4]


def test_files_that_the_sheet_names_are_named_from_where_the_table_lies(index, tmp_path):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/m.nii.gz").touch()
    text = (
        f"series_uid,label,mask,scan_late\n1.2.97.2,benign,masks/m.nii.gz,{tmp_path}/late\n1.2.98.1,malignant,NA,NA\n"
    )
    found, _ = linked(index, tmp_path, text, rules=SOFT_FIRST)
    first, second = Cohort.read(found.cohort).cases
    assert found.cohort.parent != tmp_path
    assert (first.mask, first.scan_in("scan_late")) == (tmp_path / "masks/m.nii.gz", (tmp_path / "late", ""))
    assert (second.mask, second.scan_in("scan_late")) == (None, None)


def a_copy_below(folder: Path) -> None:
    export_series(folder / "s", SeriesInstanceUID="1.2.3")
    shutil.copytree(folder / "s", folder / "s/backup")


def no_uid_above_another(folder: Path) -> None:
    export_series(folder, SeriesInstanceUID="")
    export_series(folder / "below", SeriesInstanceUID="1.2.3")
    export_series(folder / "below/it", SeriesInstanceUID="")


def one_uid_for_two(folder: Path, tag: str) -> None:
    for number, value in enumerate("12"):
        paths = export_series(folder / value, SeriesInstanceUID="1.2.3", **{tag: f"9.{value}"})
        for path in paths:
            path.rename(folder / f"{number}-{path.name}")


def copies_in_an_archive(folder: Path, nested: bool) -> None:
    a_copy_below(folder / "packed")
    export_series(folder / "packed/other", SeriesInstanceUID="1.2.4")
    for archive in ("inner", "outer")[not nested :]:
        shutil.make_archive(str(folder / archive), "zip", folder / "packed")
        shutil.rmtree(folder / "packed")
        (folder / "packed").mkdir()
        if archive == "inner":
            shutil.move(folder / "inner.zip", folder / "packed")


@pytest.mark.parametrize(
    "made",
    [
        *(a_copy_below, no_uid_above_another),
        *(partial(copies_in_an_archive, nested=False), partial(copies_in_an_archive, nested=True)),
        *(partial(one_uid_for_two, tag="StudyInstanceUID"), partial(one_uid_for_two, tag="PatientID")),
    ],
)
def test_each_row_leads_to_its_own_scan(tmp_path, made):
    made(tmp_path / "export")
    found = write_index(tmp_path / "export", tmp_path / "cohort.csv")
    cases = Cohort.read(tmp_path / "cohort.csv", labelled=False).cases
    assert len(cases) == found.n_listed >= 2
    read = [read_scan(case.path, case.series_uid) for case in cases]
    assert len({scan.provenance.files for scan in read}) == len(cases)


def test_series_of_a_study_that_names_no_patient_are_of_one(tmp_path):
    """Some programs that take names out leave the identifier empty."""
    for study in "ab":
        for number in "12":
            uids = {"StudyInstanceUID": f"1.2.{ord(study)}", "SeriesInstanceUID": f"1.2.{ord(study)}.{number}"}
            export_series(tmp_path / "export" / study / number, PatientID=None if study == "a" else "", **uids)
    found = write_index(tmp_path / "export", tmp_path / "cohort.csv")
    patients = [row["patient"] for row in rows(found.cohort)]
    assert patients[0] == patients[1] != patients[2] == patients[3]


def test_a_row_without_its_patient_is_not_one_of_all_the_patients_without_a_name(index, tmp_path):
    text = "study_uid,patient,label\n1.2.97,,benign\n1.2.98,NA,malignant\n"
    with pytest.raises(CohortError, match=r"labels\.csv: none of 0 rows matches a series by study_uid"):
        linked(index, tmp_path, text)
    found, remarks = linked(index, tmp_path, text.replace("NA", "anna"))
    assert {row["label"] for row in rows(found.cohort)} == {"malignant"}
    assert remarks == {2: "has no patient"}
    text = "study_uid,patient,label\n1.2.97,1.23457E+11,benign\n1.2.98,anna,malignant\n"  # a spreadsheet rounds it
    assert linked(index, tmp_path, text)[1] == {2: "has no patient"}


def test_rows_of_the_sheet_that_come_to_nothing_are_told_by_row(index, tmp_path, export):
    slices = sorted((export / "b/B70f").iterdir(), key=lambda path: dcmread(path).InstanceNumber)
    slices[2].unlink()  # both series of b have a gap now
    text = "patient,label\nSECRETID-a,benign\nSECRETID-z,benign\n\nSECRETID-b,malignant\nSECRETID-c,NaN\n,benign\n"
    found, remarks = linked(index, tmp_path, text)
    assert {row: remarks[row] for row in (3, 6, 7)} == {
        3: "no series has this patient",
        6: "has no label",
        7: "has no patient",
    }
    assert "../export/b/B30f is rejected: 1 slice missing" in remarks[5]
    assert set(remarks) == {3, 5, 6, 7}
    assert "SECRET" not in repr(found)


@pytest.mark.parametrize("lost", ["12", "12.0", "0012 ", "\uff10\uff10\uff11\uff12"])
def test_a_row_whose_patient_is_spelt_otherwise_in_the_files_says_so(index, tmp_path, export, lost):
    """A spreadsheet drops the zeros of 0012; whether 12 is the same person, only its owner knows."""
    export_series(export / "zeros", SeriesInstanceUID="1.2.99.1", StudyInstanceUID="1.2.99", PatientID="00012")
    text = f"patient,label\nSECRETID-a,benign\n{lost},malignant\nSECRETID-z,malignant\n"
    found, remarks = linked(index, tmp_path, text)
    assert remarks[3] == "no series has this patient, but one has it in another spelling (zeros, case, spaces, dashes)"
    assert remarks[4] == "no series has this patient"
    assert found.n_listed == 2  # of SECRETID-a
    with pytest.raises(
        CohortError, match=r"labels\.csv: none of 1 row matches .* by patient, but 1 in another spelling \(zeros"
    ):
        linked(index, tmp_path, f"patient,label\n{lost},malignant\n")


def test_a_patient_whom_the_sheet_takes_for_two_is_told(index, tmp_path, caplog):
    """Cases that are numbered one after the other are no patients: scans of one person would be parted."""
    header, b = "series_uid,patient,label\n", "1.2.98.1,case-3,malignant\n"
    linked(index, tmp_path, f"{header}1.2.97.1,case-1,benign\n1.2.97.2,case-2,benign\n{b}")
    (told,) = [record.getMessage() for record in caplog.records if "label sheet" in record.getMessage()]
    assert told.startswith(
        "the label sheet divides 1 patient of the files into several: ../export/a/B30f with ../export/a/B70f"
    )
    assert (leaks(told), "case-" in told) == ([], False)
    caplog.clear()
    linked(index, tmp_path, f"{header}1.2.97.1,case-1,benign\n1.2.97.2,case-1,benign\n{b}")
    assert not caplog.records


def test_a_label_that_is_nearly_another_is_doubted(index, tmp_path):
    text = "patient,label\nSECRETID-a,solid\nSECRETID-b,soild\nc,solid\nd,solid\ne,grade-2\nf,grade-3\n"
    assert linked(index, tmp_path, text)[1][3] == "has label 'soild': did you mean solid?"
    assert not any("mean" in linked(index, tmp_path, text)[1][row] for row in (6, 7))


def test_missing_labels_are_missing_and_decimals_of_pandas_are_whole(index, tmp_path):
    text = "patient,label\nSECRETID-a,1.0\nSECRETID-b,nan\n"
    found, remarks = linked(index, tmp_path, text)
    assert ({row["label"] for row in rows(found.cohort)}, remarks) == ({"1"}, {3: "has no label"})
    assert found.n_unlabelled == 2  # of b, and the file without a patient


def test_a_folder_that_stays_closed_is_told(as_nobody):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nibabel.save(nibabel.Nifti1Image(np.ones((9, 9, 9), np.int16), np.eye(4)), folder / "n.nii")
        (folder / "closed").mkdir(0o000)
        found = write_index(folder, folder / "cohort.csv")
        assert (found.unopened, found.exit_code, found.n_listed) == ((folder / "closed",), 1, 1)
        (folder / "closed").chmod(0o700)
        assert write_index(folder, folder / "cohort.csv").exit_code == 0


def test_nothing_is_done_where_no_series_is_listed(index):
    """By rules that leave out all: there is no table to go on with."""
    found = index(rules=SeriesRules.model_validate({"require": [{"n_slices": [10_000, None]}]}))
    assert (found.n_listed, found.n_not_chosen > 0, found.exit_code) == (0, True, 3)


def test_a_table_that_somebody_has_labelled_is_not_written_over(index):
    table = index().cohort
    index()  # its own
    labelled = b"scan,patient,label\r\n../export/n.nii,p1,high\r\n"
    for content in (labelled, labelled.replace(b",", b";"), b"\xef\xbb\xbf" + labelled):
        table.write_bytes(content)
        with pytest.raises(UsageError, match=r"whose columns label would be lost; expected a new name.*another -o"):
            index()
        assert table.read_bytes() == content
    table.write_bytes(b"PK\x03\x04")
    with pytest.raises(UsageError, match=r"cohort\.csv: a file that is no such table \(is an Excel workbook\)"):
        index()


def test_a_label_that_somebody_has_corrected_in_the_table_stays_beside_it(index, tmp_path):
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("scan,label\n../export/n.nii,high\n")
    index()  # without labels nothing can be lost
    first = index(labels=sheet)
    written = first.cohort.read_bytes()
    assert (first.before, index(labels=sheet).before) == (None, None)
    corrected = written.replace(b"high", b"low")
    assert corrected != written
    first.cohort.write_bytes(corrected)
    before = index(labels=sheet).before
    assert before == first.cohort.with_name("cohort.before.csv")
    assert (before.read_bytes(), first.cohort.read_bytes()) == (corrected, written)
    assert index(labels=sheet).before is None
    assert before.read_bytes() == corrected
    sheet.write_text("scan,label\n../export/n.nii,middle\n")
    again = index(labels=sheet).before  # the table from the previous sheet, not the manual corrections
    assert (again.name, again.read_bytes(), before.read_bytes()) == ("cohort.before2.csv", written, corrected)


def test_the_sheet_is_not_written_over(index, tmp_path):
    (tmp_path / "out").mkdir()
    sheet = tmp_path / "out/cohort.csv"
    sheet.write_text("scan,label\n../export/n.nii,high\n")
    with pytest.raises(UsageError, match="the file that is read is the one to write"):
        index(labels=sheet)
    assert sheet.read_text() == "scan,label\n../export/n.nii,high\n"


def test_what_is_wrong_with_the_sheet_or_the_table_is_said_before_a_scan_is_looked_for(tmp_path):
    (tmp_path / "sheet.csv").write_text("scan,grade\na,1\n")
    with pytest.raises(CohortError, match=r"sheet\.csv: .*expected label \(or label_<finding>\)"):
        write_index(tmp_path / "nowhere", tmp_path / "cohort.csv", tmp_path / "sheet.csv")
    (tmp_path / "cohort.csv").mkdir()
    with pytest.raises(OutputError, match=r"cohort\.csv: cannot be written: a folder has this name"):
        write_index(tmp_path / "nowhere", tmp_path / "cohort.csv")
