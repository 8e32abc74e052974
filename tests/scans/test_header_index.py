"""A second survey of an unchanged tree opens no file again, and a changed file is never taken for the old one."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK
from dicom_series import SECRETS, as_image, hounsfield, plane_affine, write_series
from planted import leaked

from med_transfer.scans import read_scan, survey


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """To write its slices takes longer than most tests of it, which change a copy."""
    scans = tmp_path_factory.mktemp("tree") / "scans"
    for number in range(4):
        write_series(scans / str(number), hounsfield((20, 7, 9), number), series_uid=f"1.2.{number}")
    SimpleITK.WriteImage(as_image(hounsfield(), plane_affine()), scans / "a.nii.gz")
    SimpleITK.WriteImage(as_image(hounsfield(), plane_affine("oblique")), scans / "b.nrrd")
    (scans / "notes.txt").write_text("no scan")
    (scans / os.fsdecode(b"\xff")).write_text("a name that is no UTF-8")
    return scans


@pytest.fixture
def tree(written, tmp_path, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_CACHE", str(tmp_path / "cache"))
    return shutil.copytree(written, tmp_path / "scans", copy_function=shutil.copyfile)  # as new as if written here


@pytest.fixture
def opened(monkeypatch):
    """Paths that were opened for reading, below any folder named scans."""
    import builtins
    import io

    monkeypatch.setenv("MED_TRANSFER_READ_IN_PROCESS", "1")
    paths: list[str] = []

    def watch(original):
        def open_watched(file, *rest, **named):
            if isinstance(file, str | os.PathLike) and "/scans/" in str(file):
                paths.append(str(file))
            return original(file, *rest, **named)

        return open_watched

    monkeypatch.setattr(builtins, "open", watch(builtins.open))
    monkeypatch.setattr(io, "open", watch(io.open))
    return paths


def as_text(found):
    return [(one.name, one.path, one.files, str(one.verdict), one.n_slices, one.spacing_mm) for one in found.series]


def test_the_second_look_opens_nothing(tree, opened):
    first = survey(tree)
    assert len(opened) >= 83
    opened.clear()
    second = survey(tree)
    assert opened == []
    assert as_text(second) == as_text(first)
    assert second.ignored == first.ignored
    for one, again in zip(first.series, second.series, strict=True):
        np.testing.assert_array_equal(read_scan(one).voxels, read_scan(again).voxels)


def test_a_changed_file_is_read_again_and_only_that(tree, opened):
    survey(tree)
    paths = write_series(tree / "new", hounsfield((20, 7, 9), 9), series_uid="1.2.0", names=[f"{k}" for k in range(20)])
    paths[3].rename(tree / "0" / "slice003.dcm")
    for path in paths[:3] + paths[4:]:
        path.unlink()
    opened.clear()
    found = survey(tree)
    assert {path.rsplit("/scans/")[1] for path in opened} == {"0/slice003.dcm"}
    assert sum(one.verdict.usable for one in found.series) == 6


def test_a_removed_file_is_gone(tree):
    survey(tree)
    (tree / "2" / "slice007.dcm").unlink()
    (series,) = [one for one in survey(tree).series if one.series_uid == "1.2.2"]
    assert str(series.verdict).startswith("reject: 1 slice missing")


def test_the_limit_of_gaps_is_no_part_of_what_is_kept(tree):
    (tree / "2" / "slice007.dcm").unlink()
    for max_gap_mm, decision in ((0, "reject"), (5, "repair"), (0, "reject")):
        (series,) = [one for one in survey(tree, max_gap_mm=max_gap_mm).series if one.series_uid == "1.2.2"]
        assert series.verdict.decision == decision


def test_it_names_no_patient_and_only_its_owner_may_read_it(tree):
    survey(tree)
    (index,) = (tree.parent / "cache" / "headers").glob("*.sqlite")
    text = index.read_bytes().decode("latin-1")
    assert "1.2.3" in text
    assert leaked(SECRETS, text) == []
    assert stat.S_IMODE(index.stat().st_mode) == 0o600


def _cut(content):
    return content[: len(content) // 2]


def _holed(content):
    return content[:5000] + b"\xff" * 3000 + content[8000:]


def _of_another_version(content):
    return content[:60] + b"\0\0\0\x63" + content[64:]  # user_version in SQLite's header


@pytest.mark.parametrize("spoil", [lambda _: b"", lambda _: b"{", _cut, _holed, _of_another_version])
def test_an_index_of_another_kind_is_not_believed(tree, spoil):
    first = survey(tree)
    (index,) = (tree.parent / "cache" / "headers").glob("*.sqlite")
    index.write_bytes(spoil(index.read_bytes()))
    assert as_text(survey(tree)) == as_text(first)
    assert as_text(survey(tree)) == as_text(first)


def test_what_another_version_of_the_program_judged_is_not_believed(tree, opened):
    survey(tree)
    opened.clear()
    look = (
        "from importlib import metadata; here = metadata.version;"
        "metadata.version = lambda name: '99' if name == 'med-transfer' else here(name);"
        f"from med_transfer.scans import survey; survey({str(tree)!r})"
    )
    subprocess.run([sys.executable, "-c", look], check=True)  # an upgrade and a survey
    survey(tree)
    assert opened  # nor does the older version trust the newer one's index


def test_another_file_of_the_same_size_and_time_is_read_again(tree):
    """As ``rsync -t`` puts it in the old one's place."""
    survey(tree)
    old = tree / "1" / "slice003.dcm"
    new = write_series(tree.parent / "new", hounsfield((20, 7, 9), 1), series_uid="1.2.1")[7]
    times = old.stat()
    assert new.stat().st_size == times.st_size
    os.utime(new, ns=(times.st_atime_ns, times.st_mtime_ns))
    new.rename(old)
    (series,) = [one for one in survey(tree).series if one.series_uid == "1.2.1"]
    assert series.verdict.decision == "reject"


def test_a_file_in_place_written_anew_with_the_old_time_is_read_again(tree):
    survey(tree)
    path = tree / "1" / "slice003.dcm"
    times, other = path.stat(), (tree / "1" / "slice007.dcm").read_bytes()
    path.write_bytes(other)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_ino) == (times.st_size, times.st_ino)
    (series,) = [one for one in survey(tree).series if one.series_uid == "1.2.1"]
    assert series.verdict.decision == "reject"


def test_another_stamp_on_the_same_header_is_the_same_file(tree):
    (series,) = [one for one in survey(tree).series if one.series_uid == "1.2.1"]
    for path in series.files:
        path.chmod(0o600)
    np.testing.assert_array_equal(read_scan(series).voxels, hounsfield((20, 7, 9), 1))


def test_the_index_of_earlier_versions_goes(tree):
    old = tree.parent / "cache" / "headers" / "0123.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    survey(tree)
    assert [path.suffix for path in old.parent.iterdir()] == [".sqlite"]


def test_off_and_unwritable_keep_nothing_and_harm_nothing(tree, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_CACHE", "off")
    assert len(survey(tree).series) == 6
    monkeypatch.setenv("MED_TRANSFER_CACHE", "/proc/nowhere")
    assert len(survey(tree).series) == 6
    assert not (tree.parent / "cache").exists()


def test_small_folders_leave_no_index(tmp_path, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_CACHE", str(tmp_path / "cache"))
    write_series(tmp_path / "scans")
    survey(tmp_path / "scans")
    assert not (tmp_path / "cache").exists()


def test_a_tree_whose_name_is_no_text_is_kept_like_any_other(tree):
    renamed = tree.rename(tree.with_name(os.fsdecode(b"scans\xff")))
    survey(renamed)
    assert len(list((tree.parent / "cache" / "headers").iterdir())) == 1


def test_a_cache_whose_name_is_no_text_keeps_nothing_and_harms_nothing(tree, monkeypatch):
    """SQLite takes names in UTF-8 alone."""
    monkeypatch.setenv("MED_TRANSFER_CACHE", str(tree.with_name(os.fsdecode(b"cache\xff"))))
    assert len(survey(tree).series) == 6
