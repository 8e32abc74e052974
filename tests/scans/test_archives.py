"""Scans in zip and tar archives are read as from a folder; a harmful archive is refused."""

from __future__ import annotations

import bz2
import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dicom_series import hounsfield, write_series

from med_transfer.errors import AmbiguousScan, UnreadableScan
from med_transfer.scans import read_scan, survey
from med_transfer.scans.isolation import worker
from med_transfer.scans.search import archives
from med_transfer.scans.search.archives import ArchiveLimits, unpacked

KINDS = {".zip": "zip", ".tar": "tar", ".tar.gz": "gztar", ".tgz": "gztar", ".tar.bz2": "bztar", ".tar.xz": "xztar"}


def pack(folder: Path, path: Path) -> Path:
    kind = next(kind for suffix, kind in KINDS.items() if path.name.endswith(suffix))
    made = Path(shutil.make_archive(str(path.parent / "packing"), kind, folder))
    return made.rename(path)


@pytest.mark.parametrize("suffix", KINDS)
def test_a_series_in_an_archive(tmp_path, suffix):
    hu = hounsfield()
    write_series(tmp_path / "in" / "deep" / "er", hu, series_uid="1.2.3")
    (tmp_path / "in" / "notes.txt").write_text("no scan")
    archive = pack(tmp_path / "in", tmp_path / f"export{suffix}")
    volume = read_scan(archive)
    np.testing.assert_array_equal(volume.voxels, hu)
    found = survey(tmp_path)
    assert {(one.path, one.series_uid) for one in found.series} == {
        (archive, "1.2.3"),
        (tmp_path / "in" / "deep" / "er", "1.2.3"),
    }
    assert {one.path.name for one in found.ignored} == {"notes.txt"}
    assert archive / "notes.txt" in {one.path for one in found.ignored}


def test_an_archive_without_a_name_of_its_kind(tmp_path):
    write_series(tmp_path / "in", series_uid="1.2.3")
    pack(tmp_path / "in", tmp_path / "x.zip").rename(tmp_path / "DICOM")
    assert read_scan(tmp_path / "DICOM").provenance.series_uid == "1.2.3"


SCRIPT = """
import sys, time
from med_transfer.scans import find_series
print(len(find_series(sys.argv[1])), flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a process of its own reads scans on POSIX alone")
def test_a_kill_leaves_no_unpacked_scan_behind(tmp_path):
    for name in ("in", "tmp"):
        (tmp_path / name).mkdir()
    write_series(tmp_path / "in" / "a", series_uid="1.2.3")
    pack(tmp_path / "in", tmp_path / "in" / "export.zip")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path / "tmp")}
    words = [sys.executable, "-c", SCRIPT, str(tmp_path / "in" / "export.zip")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "1\n"
        assert list((tmp_path / "tmp").rglob("*.dcm"))
        process.kill()
    deadline = time.monotonic() + 240
    while any((tmp_path / "tmp").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_office_document_is_no_archive_of_scans(tmp_path):
    write_series(tmp_path / "in")
    pack(tmp_path / "in", tmp_path / "x.zip").rename(tmp_path / "letter.docx")
    shutil.rmtree(tmp_path / "in")
    (ignored,) = survey(tmp_path).ignored
    assert ignored.reason == "not an image file"


def test_two_series_in_an_archive_need_a_choice(tmp_path):
    for number in (1, 2):
        write_series(tmp_path / "in" / str(number), hounsfield(seed=number), series_uid=f"1.2.{number}")
    archive = pack(tmp_path / "in", tmp_path / "export.zip")
    with pytest.raises(AmbiguousScan, match="2 usable series"):
        read_scan(archive)
    np.testing.assert_array_equal(read_scan(archive, "1.2.2").voxels, hounsfield(seed=2))


def test_a_series_over_several_archives_is_no_volume_in_any_of_them(tmp_path):
    paths = write_series(tmp_path / "in", hounsfield((10, 7, 9)))
    (tmp_path / "out").mkdir()
    for name, part in {"first.zip": paths[5:], "second.zip": paths[:5]}.items():
        with zipfile.ZipFile(tmp_path / "out" / name, "w") as file:
            for path in part:
                file.write(path, path.name)
    told = [str(one.verdict) for one in survey(tmp_path / "out").series]
    assert [text[: text.index(";")] for text in told] == [
        f"reject: part of a series: {other}.zip has other images of it" for other in ("second", "first")
    ]
    shutil.copytree(tmp_path / "in", tmp_path / "out" / "whole")
    assert read_scan(tmp_path / "out").voxels.shape == (10, 7, 9)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name_are_all_read(tmp_path):
    hu = hounsfield((8, 7, 9))
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as file:
        for number, path in enumerate(write_series(tmp_path / "in", hu)):
            file.write(path, f"{number // 4}/IM{max(number, 1)}.dcm")
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as file:
        for number, path in enumerate(sorted((tmp_path / "in").iterdir())):
            file.write(path, f"IM{number % 3}.dcm")
    for name in ("export.zip", "flat.zip"):
        np.testing.assert_array_equal(read_scan(tmp_path / name).voxels, hu)


@pytest.mark.parametrize("name", ["../outside.dcm", "/tmp/outside.dcm", "a/../../outside.dcm", "C:\\outside.dcm"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_member_that_leads_out_is_refused(tmp_path, name, kind):
    archive = tmp_path / f"bad.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(name, b"x")
    else:
        with tarfile.open(archive, "w") as file:
            info = tarfile.TarInfo(name)
            info.size = 1
            file.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(UnreadableScan, match="archive with a member that leads out of it"):
        unpacked(archive)
    assert not list(tmp_path.rglob("outside*"))
    assert not Path("/tmp/outside.dcm").exists()


def test_links_in_a_tar_are_passed_over(tmp_path):
    archive = tmp_path / "links.tar"
    with tarfile.open(archive, "w") as file:
        info = tarfile.TarInfo("innocent.dcm")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(info)
        info = tarfile.TarInfo("device")
        info.type = tarfile.CHRTYPE
        file.addfile(info)
        file.addfile(tarfile.TarInfo("regular"))
    assert [path.name for path in unpacked(archive).rglob("*")] == ["regular"]


@pytest.mark.parametrize(
    ("limits", "count", "size"),
    [
        (ArchiveLimits(files=5), 6, 10),
        (ArchiveLimits(file_bytes=1000), 1, 1001),
        (ArchiveLimits(bytes=3000), 4, 900),
    ],
    ids=["count", "one file", "together"],
)
def test_limits(tmp_path, limits, count, size):
    archive = tmp_path / "large.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for number in range(count):
            file.writestr(f"{number}", b"\0" * size)
    with pytest.raises(UnreadableScan, match=r"archive beyond the limits; expected at most"):
        unpacked(archive, limits)


@pytest.mark.parametrize(("size", "found"), [((8 << 30) + 1, "beyond the limits"), (8 << 30, "damaged")])
def test_a_file_of_more_than_8_gib_is_not_unpacked(tmp_path, size, found):
    info = tarfile.TarInfo("scan.nii")
    info.size = size
    (tmp_path / "large.tar").write_bytes(info.tobuf() + bytes(tarfile.RECORDSIZE))  # not even a MiB follows
    with pytest.raises(UnreadableScan, match=found) as refused:
        unpacked(tmp_path / "large.tar")
    if found == "beyond the limits":
        assert "expected at most 200000 files of 8 GiB, together 64 GiB" in str(refused.value)


def _in_zips(content: bytes, name: str, number: int) -> bytes:
    for _ in range(number):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
            opened.writestr(name, content)
        content, name = file.getvalue(), "within.zip"
    return content


@pytest.mark.parametrize(("number", "found"), [(8, 2), (300, 1)])
def test_archives_within_each_other_end_somewhere(tmp_path, number, found):
    write_series(tmp_path / "good")
    write_series(tmp_path / "in")
    inner = pack(tmp_path / "in", tmp_path / "x.zip")
    (tmp_path / "good" / "deep.zip").write_bytes(_in_zips(inner.read_bytes(), "x.zip", number - 1))
    contents = survey(tmp_path / "good")
    assert len(contents.series) == found
    assert [file.reason for file in contents.ignored] == ["archive within 8 others"] * (2 - found)


def test_limits_hold_for_an_archive_and_those_in_it_together(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.unpacked, "__defaults__", (ArchiveLimits(bytes=5000), None))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for number in range(4):
            file.writestr(f"{number}.zip", _in_zips(bytes(2000), "zeros", 1))
    contents = survey(tmp_path)
    refused = [file.path.name for file in contents.ignored if file.reason == "archive beyond the limits"]
    assert refused == ["2.zip", "3.zip"]


def test_an_archive_replaced_by_one_of_the_same_size_and_time_is_read_anew(tmp_path):
    def of_one_length(k, dataset):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k}"

    packed = []
    for seed in (0, 1):
        write_series(tmp_path / f"{seed}", hounsfield(seed=seed), series_uid="1.2.3", change=of_one_length)
        with zipfile.ZipFile(tmp_path / f"{seed}.zip", "w") as file:
            for path in sorted((tmp_path / f"{seed}").iterdir()):
                file.write(path, path.name)
        packed.append(tmp_path / f"{seed}.zip")
    first, second = packed
    np.testing.assert_array_equal(read_scan(first).voxels, hounsfield(seed=0))
    before = first.stat()
    assert second.stat().st_size == before.st_size
    os.utime(second, ns=(before.st_atime_ns, before.st_mtime_ns))
    left = unpacked(first)
    second.rename(first)
    np.testing.assert_array_equal(read_scan(first).voxels, hounsfield(seed=1))
    survey(first)
    assert not left.exists()


def test_the_files_of_an_archive_that_is_gone_go_when_the_next_one_is_unpacked(tmp_path):
    kept, *others = (tmp_path / f"{number}.zip" for number in range(3))
    for path in (kept, *others):
        path.write_bytes(_in_zips(b"x", "notes", 1))
    folders = [unpacked(kept), unpacked(others[0])]
    others[0].unlink()
    unpacked(others[1])
    assert [folder.exists() for folder in folders] == [True, False]


def test_a_header_that_lies_about_the_size_is_not_believed(tmp_path):
    """A bomb: the directory says 10 bytes, the stream gives a megabyte."""
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb", b"\0" * (1 << 20))
    lying = archive.read_bytes().replace((1 << 20).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    archive.write_bytes(lying)
    with pytest.raises(UnreadableScan, match=r"damaged archive|beyond the limits"):
        unpacked(archive, ArchiveLimits(bytes=1000))


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar.xz", ".tar"])
def test_a_damaged_archive_is_listed_and_stops_nothing(tmp_path, suffix):
    write_series(tmp_path / "in", hounsfield((5, 64, 64)))
    archive = pack(tmp_path / "in", tmp_path / f"cut{suffix}")
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    found = survey(tmp_path)
    assert [one.verdict.usable for one in found.series if one.path != archive] == [True]
    (bad,) = [one for one in found.ignored if one.path == archive]
    assert bad.damaged
    assert "archive" in bad.reason
    with pytest.raises(UnreadableScan, match="archive"):
        read_scan(archive)


@pytest.mark.parametrize("content", [b"", b"<html><body>404 Not Found</body></html>", bytes(3000)])
@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tgz", ".tar"])
def test_what_is_named_as_an_archive_and_is_none_is_damaged(tmp_path, suffix, content):
    """A download that failed: what should be in it would be left out in silence."""
    archive = tmp_path / f"scans{suffix}"
    archive.write_bytes(content)
    found = survey(tmp_path)
    (bad,) = found.ignored
    assert bad.damaged
    assert "archive" in bad.reason


@pytest.fixture
def three_seconds(monkeypatch) -> Iterator[None]:
    """For each scan, enough for a small one on a busy machine; this process's child begins anew, before and after."""
    own = worker()
    assert own is not None
    own.close()
    monkeypatch.setenv("MED_TRANSFER_READ_SECONDS", "3")
    yield
    own.close()


def test_an_archive_that_takes_for_ever_ends_as_a_damaged_file(tmp_path, three_seconds):
    """Four gigabytes of a slow compression, in 3 kB."""
    archive, size = tmp_path / "slow.tar.bz2", 1 << 32
    member = tarfile.TarInfo("a")
    member.size = size
    archive.write_bytes(bz2.compress(member.tobuf()) + bz2.compress(bytes(1 << 24)) * (size >> 24))
    write_series(tmp_path / "in")
    found = survey(tmp_path)
    assert [(bad.path, bad.reason, bad.damaged) for bad in found.ignored] == [(archive, "not read within 3 s", True)]
    assert [one.verdict.usable for one in found.series] == [True]


@pytest.mark.parametrize(
    ("method", "old", "new", "message"),
    [
        (zipfile.ZIP_STORED, b"voxels", b"voxelS", r"damaged archive \(BadZipFile\)"),
        (zipfile.ZIP_BZIP2, b"BZh9", b"BZx9", r"archive cannot be unpacked \(OSError\)"),
    ],
)
def test_a_member_with_damaged_bytes_is_the_fault_of_its_archive(tmp_path, method, old, new, message):
    archive = tmp_path / "damaged.zip"
    with zipfile.ZipFile(archive, "w", method) as file:
        file.writestr("a", b"voxels")
    archive.write_bytes(archive.read_bytes().replace(old, new))
    with pytest.raises(UnreadableScan, match=rf"damaged\.zip: {message}"):
        unpacked(archive)


def test_an_encrypted_archive_says_so(tmp_path):
    archive = tmp_path / "secret.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", b"x")
    content = bytearray(archive.read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + at] |= 1  # the flag for encryption
    archive.write_bytes(bytes(content))
    with pytest.raises(UnreadableScan, match="encrypted archive.*Unpack it with its password first"):
        unpacked(archive)


def test_unpacked_files_are_private_and_go_with_the_process(tmp_path):
    write_series(tmp_path / "in")
    archive = pack(tmp_path / "in", tmp_path / "x.zip")
    folder = unpacked(archive)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert unpacked(archive) == folder
    script = "import sys; from med_transfer.scans.search.archives import *; print(unpacked(Path(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", script, archive], capture_output=True, text=True, timeout=240)
    made = Path(done.stdout.strip())
    assert made.name.startswith("med_transfer-"), done.stderr
    assert not made.exists()
