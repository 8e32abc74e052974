"""The reason why a damaged scan is refused, and remarks on one that is read, contain no English in Chinese."""

import random

import pytest
from chinese import ENGLISH_SENTENCE
from hostile import KINDS

from med_transfer.errors import ScanError
from med_transfer.page.language import translator
from med_transfer.scans import read_scan, survey


def told(folder):
    """All that is said of a folder's scan, and of the files beside it."""
    try:
        yield from read_scan(folder).verdict.reasons
    except ScanError as error:
        yield error.message
    for series in survey(folder).series:
        yield from series.verdict.reasons
    yield from (file.reason for file in survey(folder).ignored)


# special has pipes and trees of a thousand folders; functional is read
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"special", "functional"}))
def test_what_is_said_of_a_spoilt_scan_is_said_in_chinese(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_CACHE", "off")
    monkeypatch.setenv("MED_TRANSFER_READ_IN_PROCESS", "1")
    rng, said = random.Random(0), []
    for number in range(6):
        folder = tmp_path / str(number)
        KINDS[kind](folder, rng)
        said += map(translator("zh-TW").translated, told(folder))
    assert said
    assert [text for text in said if ENGLISH_SENTENCE.search(text)] == []


def test_a_header_index_keeps_what_can_be_said(tmp_path, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_CACHE", str(tmp_path / "cache"))
    for number in range(70):  # fewer are not kept
        (tmp_path / f"scans/{number}").mkdir(parents=True)
        (tmp_path / f"scans/{number}/notes.txt").write_text("no scan")
    for _ in ("read", "kept"):
        (reason,) = {file.reason for file in survey(tmp_path / "scans").ignored}
        assert translator("zh-TW").translated(reason) == "不是影像檔案"
    assert list((tmp_path / "cache/headers").glob("*.sqlite"))
