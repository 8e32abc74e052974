"""The journal of a study, across stops and kills."""

import time

from med_transfer.tuning.config import TuningConfig
from med_transfer.tuning.study import JOURNAL, Study


def test_what_a_kill_left_behind_stops_nothing(tmp_path):
    first = Study(tmp_path, TuningConfig()).next()
    for name in (f"{JOURNAL}.lock", f"{JOURNAL}.lock.rename"):
        (tmp_path / name).symlink_to(tmp_path / JOURNAL)  # as Optuna's own lock would after a kill
    started = time.monotonic()
    again = Study(tmp_path, TuningConfig()).next()
    assert again.number == first.number
    assert time.monotonic() - started < 30


def test_nothing_but_the_journal_is_written(tmp_path):
    study = Study(tmp_path, TuningConfig())
    study.tell(study.next(), "complete", 0.5)
    assert [path.name for path in tmp_path.iterdir()] == [JOURNAL]
    assert [(trial.number, trial.state, trial.value) for trial in study.records()] == [(0, "complete", 0.5)]
