"""A cohort on disk: the table is correct, the same config gives the same bytes, failures leave nothing behind."""

import csv
import hashlib
import threading
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pydantic
import pydicom
import pytest
import SimpleITK

from med_transfer.errors import OutputError
from med_transfer.phantoms import PhantomConfig, phantom_volume, write_cohort, write_nifti
from med_transfer.phantoms.cohort import COLUMNS

SMALL = {"patients_per_class": 2, "shape": (10, 32, 32), "scans_per_patient": (1, 2)}


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tree_hash(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def read(path: Path) -> SimpleITK.Image:
    if path.is_file():
        return SimpleITK.ReadImage(str(path))
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
    return reader.Execute()


@pytest.mark.parametrize("task", ["texture", "shape", "appearance"])
def test_table_lists_every_scan_with_its_label_and_region(task, tmp_path):
    config = PhantomConfig(task=task, format="mixed", **SMALL)
    table = write_cohort(tmp_path / "out", config)
    rows = rows_of(table)
    assert table == tmp_path / "out" / "cohort.csv"
    assert tuple(rows[0]) == COLUMNS
    patients = {row["patient"]: row["label"] for row in rows}
    assert Counter(patients.values()) == dict.fromkeys(config.labels, 2)
    assert all(patients[row["patient"]] == row["label"] for row in rows)
    assert {Path(row["scan"]).suffix for row in rows} == {"", ".gz"}
    for row in rows:
        image = read(table.parent / row["scan"])
        index = image.TransformPhysicalPointToContinuousIndex([float(row[f"roi_{axis}_mm"]) for axis in "xyz"])
        assert all(0 < n < size - 1 for n, size in zip(index, image.GetSize(), strict=True))
        assert 8 <= float(row["roi_size_mm"]) <= 31


def test_mask_lies_round_the_region_in_both_formats(tmp_path):
    for format in ("dicom", "nifti"):
        table = write_cohort(tmp_path / format, PhantomConfig(format=format, masks=True, **SMALL))
        for row in rows_of(table):
            scan, mask = read(table.parent / row["scan"]), read(table.parent / row["mask"])
            assert mask.GetSize() == scan.GetSize()
            np.testing.assert_allclose(mask.GetOrigin(), scan.GetOrigin(), atol=1e-3)
            points = [
                mask.TransformIndexToPhysicalPoint([int(n) for n in index[::-1]])
                for index in np.argwhere(SimpleITK.GetArrayFromImage(mask))
            ]
            centre = [float(row[f"roi_{axis}_mm"]) for axis in "xyz"]
            assert np.abs(np.mean(points, axis=0) - centre).max() < max(scan.GetSpacing()) / 2


def test_both_formats_hold_the_same_voxels(tmp_path):
    tables = [write_cohort(tmp_path / f, PhantomConfig(format=f, **SMALL)) for f in ("dicom", "nifti")]
    for dicom, nifti in zip(*(rows_of(t) for t in tables), strict=True):
        one, two = read(tables[0].parent / dicom["scan"]), read(tables[1].parent / nifti["scan"])
        assert np.array_equal(SimpleITK.GetArrayFromImage(one), SimpleITK.GetArrayFromImage(two))
        np.testing.assert_allclose(one.GetOrigin(), two.GetOrigin(), atol=1e-3)
        np.testing.assert_allclose(one.GetSpacing(), two.GetSpacing(), atol=1e-5)


def test_the_same_config_gives_the_same_bytes(tmp_path):
    config = PhantomConfig(format="mixed", masks=True, faults=True, unlabelled_patients=1, **SMALL)
    write_cohort(tmp_path / "a", config)
    write_cohort(tmp_path / "b", config)
    assert tree_hash(tmp_path / "a") == tree_hash(tmp_path / "b")


def test_a_larger_cohort_begins_with_the_same_scans(tmp_path):
    small = PhantomConfig(**SMALL)
    write_cohort(tmp_path / "small", small)
    write_cohort(tmp_path / "large", small.model_copy(update={"patients_per_class": 3}))
    few, many = (tree_hash(tmp_path / name / "scans") for name in ("small", "large"))
    assert few.items() <= many.items()
    assert len(many) > len(few)


def test_the_two_tasks_share_no_person(tmp_path):
    volumes = [phantom_volume(label, shape=(10, 32, 32)) for label in ("solid", "smooth")]
    assert volumes[0].lesion_mm != volumes[1].lesion_mm


def test_faults_are_what_they_say(tmp_path):
    plain, faulty = (PhantomConfig(faults=f, **SMALL) for f in (False, True))
    good = rows_of(write_cohort(tmp_path / "plain", plain))
    table = write_cohort(tmp_path / "faulty", faulty)
    bad = rows_of(table)[len(good) :]
    assert [row["patient"] for row in bad] == ["texture-8000", "texture-8001"]
    gapped, cut = (table.parent / row["scan"] for row in bad)
    z = np.sort([float(pydicom.dcmread(p).ImagePositionPatient[2]) for p in gapped.iterdir()])
    assert len(z) == 9
    assert np.diff(z).max() == pytest.approx(2 * np.diff(z).min(), rel=1e-4)
    sizes = sorted(p.stat().st_size for p in cut.iterdir())
    assert len(sizes) == 10
    assert sizes[0] < 0.6 * sizes[1]
    assert "Phantom Vendor" in (table.parent / "scans/export/readme.dcm").read_text()


def test_a_truncated_nifti_cannot_be_read(tmp_path):
    table = write_cohort(tmp_path / "out", PhantomConfig(format="nifti", faults=True, **SMALL))
    (row,) = [row for row in rows_of(table) if row["patient"] == "texture-8001"]
    with pytest.raises((EOFError, OSError)):
        nib.load(table.parent / row["scan"]).get_fdata()


def test_unlabelled_scans_are_not_in_the_table(tmp_path):
    table = write_cohort(tmp_path / "out", PhantomConfig(unlabelled_patients=3, **SMALL))
    assert len(list((tmp_path / "out" / "unlabelled").iterdir())) == 3
    assert not [row for row in rows_of(table) if row["scan"].startswith("unlabelled")]


def test_progress_counts_to_the_end(tmp_path):
    seen = []
    config = PhantomConfig(unlabelled_patients=1, **SMALL)
    rows = rows_of(write_cohort(tmp_path / "out", config, progress=lambda stage, *step: seen.append(step)))
    assert seen == [(n, len(rows) + 1) for n in range(1, len(rows) + 2)]


def test_scans_per_patient_is_kept(tmp_path):
    config = PhantomConfig(patients_per_class=4, shape=(8, 32, 32), scans_per_patient=(1, 2), format="nifti")
    counts = Counter(row["patient"] for row in rows_of(write_cohort(tmp_path / "out", config)))
    assert set(counts.values()) == {1, 2}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task", "colour"),
        ("patients_per_class", 0),
        ("scans_per_patient", (3, 2)),
        ("scans_per_patient", (0, 2)),
        ("difficulty", 1.5),
        ("shape", (4, 96, 96)),
        ("seed", -1),
        ("patient_per_class", 3),
    ],
)
def test_config_refuses(key, value):
    with pytest.raises(pydantic.ValidationError, match=key):
        PhantomConfig(**{key: value})


def test_a_folder_that_holds_something_is_refused_untouched(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match=r"out: the folder is not empty; expected a new or empty folder"):
        write_cohort(tmp_path / "out", PhantomConfig(**SMALL))
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_the_folder_that_the_command_runs_in_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="the folder that the command runs in; expected another one, new or empty"):
        write_cohort(Path(), PhantomConfig(**SMALL))


def test_a_file_of_that_name_is_refused(tmp_path):
    (tmp_path / "out").write_text("keep")
    with pytest.raises(OutputError, match="a file of this name exists"):
        write_cohort(tmp_path / "out", PhantomConfig(**SMALL))


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "out").mkdir()
    assert write_cohort(tmp_path / "out", PhantomConfig(**SMALL)).is_file()


def test_a_parent_that_is_a_file_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="out: cannot be written"):
        write_cohort(tmp_path / "file" / "out", PhantomConfig(**SMALL))


def test_where_the_disk_is_full_the_folder_is_named_that_was_asked_for(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"/out: cannot be written: File too large\. Free disk space"):
            write_cohort(tmp_path / "out", PhantomConfig(**SMALL))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_two_at_once_never_mix(tmp_path):
    """The one that is done first has the folder; the other is told so."""
    out, begun, ended = tmp_path / "out", threading.Event(), threading.Event()
    refusals = []

    def late() -> None:
        def wait(stage: str, done: int, total: int, note: str = "") -> None:
            begun.set()
            assert ended.wait(120)

        try:
            write_cohort(out, PhantomConfig(seed=2, **SMALL), wait)
        except OutputError as error:
            refusals.append(str(error))

    def first(stage: str, done: int, total: int, note: str = "") -> None:
        if done == 1:
            other.start()
            assert begun.wait(120)

    other = threading.Thread(target=late)
    write_cohort(out, PhantomConfig(seed=1, **SMALL), first)
    ended.set()
    other.join(120)
    write_cohort(tmp_path / "alone", PhantomConfig(seed=1, **SMALL))
    assert tree_hash(out) == tree_hash(tmp_path / "alone")
    assert len(refusals) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "out"]


def test_an_interrupted_run_leaves_nothing(tmp_path):
    def interrupt(stage: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path / "out", PhantomConfig(**SMALL), progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_nifti_keeps_millimetres_and_says_so(tmp_path):
    phantom = phantom_volume("solid", shape=(10, 32, 40))
    path = write_nifti(tmp_path / "deep" / "scan.nii.gz", phantom.voxels, phantom.affine)
    image = nib.load(path)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
    read_back = SimpleITK.ReadImage(str(path))
    assert np.array_equal(SimpleITK.GetArrayFromImage(read_back), phantom.voxels)
    index = read_back.TransformPhysicalPointToContinuousIndex(phantom.lesion_mm)
    expected = np.linalg.inv(phantom.affine) @ [*phantom.lesion_mm, 1]
    np.testing.assert_allclose(index, expected[:3], atol=1e-3)


def test_few_patients_are_to_learn_from_and_all_others_to_test(tmp_path):
    config = PhantomConfig(**SMALL | {"patients_per_class": 4}, faults=True, train_val_patients=(1, 2))
    rows = rows_of(write_cohort(tmp_path / "out", config))
    patients = {(row["patient"], row["label"], row["split"]) for row in rows}
    assert Counter(part for _, _, part in patients) == {"train": 3, "val": 6, "test": 3 + 2}  # two have faults
    assert Counter((label, part) for _, label, part in patients if part != "test") == {
        (label, part): n for label in config.labels for part, n in (("train", 1), ("val", 2))
    }


def test_nobody_left_to_test_is_refused():
    with pytest.raises(pydantic.ValidationError, match=r"train_val_patients \(1, 2\) of 3: none to test"):
        PhantomConfig(patients_per_class=3, train_val_patients=(1, 2))


def test_so_many_patients_that_their_numbers_would_be_used_twice_are_refused():
    """Patients with faulty scans count from 8000, unlabelled ones from 9000."""
    assert PhantomConfig(task="shape", patients_per_class=2000).patients_per_class == 2000
    with pytest.raises(pydantic.ValidationError, match="patients_per_class 889 of 9 classes: 8001 patients; at most 8"):
        PhantomConfig(task="appearance", patients_per_class=889)


def test_clicks_lie_around_the_lesion_and_know_no_size(tmp_path):
    """Up to 5 mm beside its middle, in the same scans."""
    changes = {"exact": {}, "clicked": {"click_error_mm": 5}}
    exact, clicked = (
        rows_of(write_cohort(tmp_path / name, PhantomConfig(**SMALL, **change))) for name, change in changes.items()
    )
    middles, clicks = (np.array([[float(r[f"roi_{a}_mm"]) for a in "xyz"] for r in rows]) for rows in (exact, clicked))
    beside_mm = np.linalg.norm(clicks - middles, axis=1)
    assert 0 < beside_mm.min() < beside_mm.max() <= 5.01
    assert len(np.unique(beside_mm)) == len(beside_mm)
    assert {row["roi_size_mm"] for row in clicked} == {"20.00"}
    assert tree_hash(tmp_path / "exact" / "scans") == tree_hash(tmp_path / "clicked" / "scans")


def test_a_targeted_reconstruction_shows_the_lesion_finer(tmp_path):
    """48 mm on 32 pixels of 1.5 mm, as long at least, with the lesion where the table says it is."""
    config = PhantomConfig(**SMALL | {"shape": (16, 32, 32)}, difficulty=0, field_of_view_mm=48)
    table = write_cohort(tmp_path / "out", config)
    for row in rows_of(table):
        image = read(table.parent / row["scan"])
        assert image.GetSpacing()[:2] == pytest.approx((1.5, 1.5))
        assert image.GetSpacing()[2] >= 3
        middle = [float(row[f"roi_{axis}_mm"]) for axis in "xyz"]
        hu = image[image.TransformPhysicalPointToIndex(middle)]
        low, high = {"solid": (-150, 200), "part-solid": (-700, 200), "ground-glass": (-700, -400)}[row["label"]]
        assert low < hu < high  # lung is below -750
