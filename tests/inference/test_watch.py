"""A folder that fills: a scan is predicted when it is complete, again when more files arrive, and nothing is lost."""

import os
import shutil
import time
from pathlib import Path

import pytest
from command_line import read_rows
from forked import python
from tiny_bundle import tiny_bundle, write_scan

from med_transfer.errors import UsageError
from med_transfer.inference import BatchSettings, load_bundle
from med_transfer.inference.watch import WatchSettings, watch
from med_transfer.scans.search import survey

QUIET = 60.0


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundle")), "cpu")


class Story:
    """An Event whose waiting is the next step of a story, so that no test waits; and the clock that goes with it."""

    def __init__(self, *steps):
        self.steps, self.now, self.ended = list(steps), 0.0, False

    def wait(self, seconds):
        self.now += seconds
        if self.steps:
            self.steps.pop(0)()
        else:
            self.ended = True

    def is_set(self):
        return self.ended

    def set(self):
        self.ended = True

    def settings(self, poll_seconds=30.0):
        return WatchSettings(QUIET, poll_seconds, self, lambda: self.now)


def nothing():
    pass


def answers(out: Path) -> dict[str, str]:
    return {row["scan"]: row["p_malignant"] for row in read_rows(out / "predictions.csv")}


def test_a_scan_waits_until_it_is_quiet_and_one_that_changes_is_superseded(predictor, tmp_path):
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    story = Story(
        lambda: write_scan(scans / "a.nii.gz", 1),
        nothing,
        lambda: write_scan(scans / "b.nii.gz", 2),
        *(nothing, nothing, nothing),
        lambda: write_scan(scans / "a.nii.gz", 3),  # more of it came
        *(nothing, nothing, nothing),
    )
    seen = [(story.now, answers(out)) for _ in watch(predictor, scans, out, watching=story.settings())]
    assert [(now, sorted(rows)) for now, rows in seen] == [
        (90.0, ["a.nii.gz"]),
        (150.0, ["a.nii.gz", "b.nii.gz"]),
        (210.0, ["b.nii.gz"]),
        (270.0, ["a.nii.gz", "b.nii.gz"]),
    ]
    assert seen[1][1]["a.nii.gz"] != seen[-1][1]["a.nii.gz"]
    predictor.predict_folder(scans, tmp_path / "at once")
    assert answers(tmp_path / "at once") == answers(out)


def test_the_only_scan_loses_its_row_too_while_it_changes(predictor, tmp_path):
    scans, out = tmp_path / "scans", tmp_path / "out"
    write_scan(scans / "a.nii.gz")
    story = Story(nothing, nothing, lambda: write_scan(scans / "a.nii.gz", 1), *(nothing, nothing, nothing))
    rows = [len(answers(out)) for _ in watch(predictor, scans, out, watching=story.settings())]
    assert rows == [1, 0, 1]


def test_a_folder_that_is_away_costs_no_row_and_a_restart_predicts_nothing_again(predictor, tmp_path):
    scans, out, predicted = tmp_path / "scans", tmp_path / "out", []
    write_scan(scans / "a.nii.gz")
    settings = BatchSettings(observe=lambda prediction: predicted.append(prediction.scan))
    for _ in range(2):  # the second one is a restart
        steps = (nothing, nothing, lambda: scans.rename(tmp_path / "away"), nothing, nothing)
        story = Story(*steps, lambda: (tmp_path / "away").rename(scans), nothing, nothing)
        assert len(list(watch(predictor, scans, out, settings=settings, watching=story.settings()))) in (1, 2)
        assert sorted(answers(out)) == ["a.nii.gz"]
    assert predicted == ["a.nii.gz"]


def test_headers_of_unchanged_files_are_not_read_again(predictor, tmp_path, monkeypatch):
    scans, read = tmp_path / "scans", []
    write_scan(scans / "a.nii.gz")
    for number in range(70):  # of fewer files no index is kept
        (scans / f"{number}.txt").write_text("no scan")
    isolated_map = survey.isolated_map
    monkeypatch.setenv("MED_TRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        survey,
        "isolated_map",
        lambda function, paths: read.append(sorted(p.name for p in paths)) or isolated_map(function, paths),
    )
    story = Story(nothing, nothing, nothing, lambda: write_scan(scans / "b.nii.gz"), nothing, nothing)
    rounds = list(watch(predictor, scans, tmp_path / "out", watching=story.settings()))
    assert len(rounds) == 2
    assert len(read[0]) == 71
    assert [names for names in read[1:] if names] == [["b.nii.gz"]]


def test_a_stop_between_two_scans_leaves_a_table_in_order_that_goes_on(predictor, tmp_path):
    scans, out = tmp_path / "scans", tmp_path / "out"
    for number in (3, 1, 2):
        write_scan(scans / f"{number}.nii.gz", number)
    story = Story(nothing, nothing)
    stop_at_the_first = BatchSettings(observe=lambda _: story.set())
    list(watch(predictor, scans, out, settings=stop_at_the_first, watching=story.settings()))
    rows = [row["scan"] for row in read_rows(out / "predictions.csv")]
    assert rows == sorted(rows)
    assert 1 <= len(rows) < 3
    story = Story(nothing, nothing)
    list(watch(predictor, scans, out, watching=story.settings()))
    predictor.predict_folder(scans, tmp_path / "at once")
    assert answers(out) == answers(tmp_path / "at once")


def test_what_cannot_be_watched_is_refused(predictor, tmp_path, command):
    scan = write_scan(tmp_path / "scans/a.nii.gz")
    with pytest.raises(UsageError, match=r"a\.nii\.gz: not a folder; expected with --watch, a folder"):
        next(watch(predictor, scan, tmp_path / "out"))
    with pytest.raises(UsageError, match="out: within the folder of the scans"):
        next(watch(predictor, scan.parent, scan.parent / "out"))
    with pytest.raises(UsageError, match=r"quiet_seconds: 0; expected seconds, more than 0"):
        WatchSettings(quiet_seconds=0)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_the_command_ends_cleanly_when_it_is_told_to(tmp_path):
    bundle, scans, table = tiny_bundle(tmp_path / "bundle"), tmp_path / "scans", tmp_path / "out/predictions.csv"
    write_scan(scans / "a.nii.gz")
    words = ("predict", bundle, scans, "-o", table.parent, "--watch", "--quiet-seconds=0.1", "--poll-seconds=0.2")
    program = python("-m", "med_transfer", *words, out=tmp_path / "said")
    try:
        until(lambda: len(rows_at(table)) == 1)
        shutil.copy(write_scan(tmp_path / "new.nii.gz", 2), scans / "0.nii.gz")
        until(lambda: rows_at(table) == ["0.nii.gz", "a.nii.gz"])
        program.terminate()
        program.join(240)
        told = (tmp_path / "said").read_text()
        assert program.exitcode == 0, told
        assert "predicting 2 of 2" in told
    finally:
        program.kill()
        program.join()
    assert rows_at(table) == ["0.nii.gz", "a.nii.gz"]
    assert (table.parent / "summary.html").exists()


def rows_at(table: Path) -> list[str]:
    return [row["scan"] for row in read_rows(table)] if table.exists() else []


def until(is_so, seconds=240.0):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)
