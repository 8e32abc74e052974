import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from killed import killed_at
from safetensors.numpy import save_file

from med_transfer.atomic import atomic_path, create_file, create_whole, write_bytes, write_text
from med_transfer.errors import OutputError


def test_file_appears_whole_and_alone(tmp_path):
    target = tmp_path / "new" / "volume.nii.gz"
    with atomic_path(target) as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"all of it")
        assert not target.exists()
    assert target.read_bytes() == b"all of it"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.skipif(os.name == "nt", reason="permissions of a Unix")
def test_who_may_read_a_file_is_what_the_umask_says_whatever_wrote_it(tmp_path):
    def write(path, **mode):
        with atomic_path(path, **mode) as temporary:
            save_file({"x": np.zeros(1)}, temporary)  # creates its own file, mode 0600
        return stat.S_IMODE(path.stat().st_mode)

    before = os.umask(0o027)
    try:
        assert write(tmp_path / "shared") == 0o640
        assert write(tmp_path / "private", mode=0o600) == 0o600
        os.umask(0o077)
        assert write(tmp_path / "shared") == 0o600
    finally:
        os.umask(before)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.json"
    write_text(target, "old")

    def half_write():
        with atomic_path(target) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_write()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_new_file_is_never_seen_half_written(tmp_path, monkeypatch):
    key = tmp_path / "new/key"
    assert killed_at(1, lambda: create_whole(key, b"secret", 0o600))
    assert not key.exists()
    create_whole(key, b"secret", 0o600)
    assert (key.read_bytes(), stat.S_IMODE(key.stat().st_mode)) == (b"secret", 0o600)

    def no_links(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    for linking in (os.link, no_links):
        monkeypatch.setattr(os, "link", linking)
        with pytest.raises(FileExistsError):
            create_whole(key, b"another", 0o600)
    create_whole(tmp_path / "new/second", b"of a stick", 0o600)
    assert {path.name: path.read_bytes() for path in key.parent.iterdir()} == {
        "key": b"secret",
        "second": b"of a stick",
    }
    deeper = tmp_path / "in/folders/that/are/not/there"
    create_whole(deeper, b"yet", 0o600)
    assert deeper.read_bytes() == b"yet"


def test_a_write_that_ends_early_without_a_number_is_taken_for_a_full_disk(tmp_path):
    said = "a.npy: cannot be written: OSError. Free disk space, or choose another folder"
    with pytest.raises(OutputError, match=said), atomic_path(tmp_path / "a.npy"):
        raise OSError("6912 requested and 0 written")  # NumPy's message


def test_text_is_utf8_with_plain_line_ends(tmp_path):
    write_text(tmp_path / "a.txt", "größe\n")
    assert (tmp_path / "a.txt").read_bytes() == b"gr\xc3\xb6\xc3\x9fe\n"


def test_a_folder_in_the_place_of_the_file(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OutputError, match=r"a\.json: cannot be written: Is a directory\. Choose another folder\.$"):
        write_text(tmp_path / "a.json", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(OutputError, match="cannot be written: .* is a file; expected a folder"):
        write_bytes(tmp_path / "run" / "a.json", b"x")


def test_a_file_that_is_there_is_never_replaced_or_taken_away(tmp_path, monkeypatch):
    """Nor where so many files are open that nobody can tell."""
    key = tmp_path / "new/key"
    create_file(key, b"secret", 0o600)
    assert (key.read_bytes(), key.stat().st_mode & 0o777) == (b"secret", 0o600)
    with pytest.raises(FileExistsError):
        create_file(key, b"another", 0o600)

    def too_many(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", too_many)
    with pytest.raises(OutputError, match="cannot be written: Too many open files"):
        create_file(key, b"another", 0o600)
    assert key.read_bytes() == b"secret"


def test_a_new_file_is_on_the_disk_under_its_name_or_not_at_all(tmp_path, monkeypatch):
    flushed, fsync = [], os.fsync

    def flush(opened):
        fsync(opened)
        flushed.append((str(Path(f"/proc/self/fd/{opened}").readlink()), os.fstat(opened).st_size))

    monkeypatch.setattr(os, "fsync", flush)
    path = tmp_path / "incoming/study/1.dcm"
    create_file(path, b"image", 0o666)
    assert flushed == [(str(path), 5)]  # complete, under its final name

    def fails(opened):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OutputError, match=r"2\.dcm: cannot be written: Input/output error"):
        create_file(path.with_name("2.dcm"), b"image", 0o666)
    assert [file.name for file in path.parent.iterdir()] == ["1.dcm"]
