"""The journal of a study, across stops and kills."""

import time

import pytest

from med_transfer.errors import OutputError, UsageError
from med_transfer.tuning.config import TuningConfig
from med_transfer.tuning.study import JOURNAL, Study, TrialPruned


def test_what_a_kill_left_behind_stops_nothing(tmp_path, monkeypatch):
    first = Study(tmp_path, TuningConfig()).next()
    for name in (f"{JOURNAL}.lock", f"{JOURNAL}.lock.rename"):
        (tmp_path / name).symlink_to(tmp_path / JOURNAL)  # as Optuna's own lock would after a kill
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits for who was killed"))
    again = Study(tmp_path, TuningConfig()).next()
    assert again.number == first.number


def test_a_study_is_kept_in_a_folder_that_it_makes(tmp_path):
    folder = tmp_path / "not/yet/there"
    Study(folder, TuningConfig()).next()
    assert [trial.number for trial in Study(folder, TuningConfig()).records()] == [0]


def test_nothing_but_the_journal_is_written(tmp_path):
    study = Study(tmp_path, TuningConfig())
    study.tell(study.next(), "complete", 0.5)
    assert [path.name for path in tmp_path.iterdir()] == [JOURNAL]
    assert [(trial.number, trial.state, trial.value) for trial in study.records()] == [(0, "complete", 0.5)]


@pytest.fixture
def journal(tmp_path):
    """Of one trial that is complete and one that runs."""
    study = Study(tmp_path, TuningConfig())
    study.tell(study.next(), "complete", 0.5)
    study.report(study.next(), 0, 0.25)
    return tmp_path / JOURNAL


def test_half_a_line_that_a_kill_or_a_full_disk_left_is_taken_away(journal):
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-9])
    study = Study(journal.parent, TuningConfig())
    study.report(study.next(), 0, 0.25)
    again = Study(journal.parent, TuningConfig())
    assert [(trial.number, trial.state) for trial in again.records()] == [(0, "complete"), (1, "unfinished")]


def test_a_damaged_journal_is_named(journal):
    whole = journal.read_bytes()
    figure = whole.index(b"0.5")
    for damaged in (
        whole[:figure] + b"0.7" + whole[figure + 3 :],
        whole[:-9] + b"\n",
        b"<html>\n",
        b"[1]\n",
        b'{"op_code": 99}\n',
    ):
        journal.write_bytes(damaged)
        with pytest.raises(UsageError, match="study.journal: is damaged; .* Remove it, and the same command"):
            Study(journal.parent, TuningConfig())
    journal.unlink()
    journal.mkdir()
    with pytest.raises(UsageError, match=r"study.journal: cannot be read \(Is a directory\)"):
        Study(journal.parent, TuningConfig())


def test_a_full_disk_is_told_as_such(journal, monkeypatch):
    study = Study(journal.parent, TuningConfig())

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="study.journal: cannot be written: No space left on device. Free disk space"):
        study.tell(study.next(), "complete", 0.7)


def test_a_trial_that_was_killed_before_it_was_judged_is_judged_when_it_goes_on(tmp_path):
    config = TuningConfig(prune_after_trials=1, prune_after_epochs=1)
    study = Study(tmp_path, config)
    good = study.next()
    for step in range(3):
        study.report(good, step, 0.9)
    study.tell(good, "complete", 0.9)
    study.report(study.next(), 0, 0.1)  # too early
    study.next().report(0.1, 1)  # and here it was killed
    study = Study(tmp_path, config)
    study.report(study.next(), 0, 0.1)
    with pytest.raises(TrialPruned):
        study.report(study.next(), 1, 0.1)
