"""How often a test set was read: counted correctly after any interruption, with no line lost."""

import json
import logging

import pytest

from med_transfer.errors import OutputError, UsageError
from med_transfer.evaluation.test_access_log import ACCESS_LOG_FILE, Access, record_access
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.page.language import ENGLISH
from med_transfer.report.test_access import times_read

ARGMAX = OperatingPoint()
MOVED = OperatingPoint(rule="class_threshold", thresholds={"solid": 0.3}, chosen_on="validation")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "runs" / "run" / ACCESS_LOG_FILE  # in a folder that does not exist


def access(lock: str = "a", point: OperatingPoint = ARGMAX, *, own: bool | None = True, cohort: str = "c") -> Access:
    return Access(by="finetune", own=own, cohort_hash=cohort, n_scans=6, lock_hash=lock, operating_point=point)


def access_once(file, *args, **kwargs):
    with record_access(file, access(*args, **kwargs)) as counts:
        return counts


def test_the_line_is_there_before_anything_is_read(file):
    with record_access(file, access()) as counts:
        (line,) = file.read_text().splitlines()
        assert json.loads(line)["event"] == "accessed"
    assert counts.sentence == "The run's own test set was read once."
    assert [json.loads(line)["event"] for line in file.read_text().splitlines()] == ["accessed", "reported"]


def test_a_second_look_is_counted_and_says_under_which_decisions(file):
    access_once(file)
    assert access_once(file).sentence == "The run's own test set was read 2 times, each time with the same decisions."
    third = access_once(file, "b", MOVED)
    assert (third.n, third.n_other_decisions, third.n_other_operating_points) == (3, 2, 2)
    assert third.sentence.endswith("read 3 times, 2 of the earlier times with a different operating point.")
    fourth = access_once(file, "retrained", MOVED)
    assert (fourth.n_other_decisions, fourth.n_other_operating_points) == (3, 2)


def test_only_something_decided_anew_is_warned_of(file):
    assert access_once(file).level == logging.INFO
    assert access_once(file).level == logging.INFO  # the same command again, as a resumed `labels budget` gives it
    assert access_once(file, "b").level == logging.WARNING


def test_a_retrained_network_is_another_decision(file):
    access_once(file)
    assert access_once(file, "b").sentence.endswith("2 times, 1 of the earlier times with different decisions.")


def test_what_was_killed_after_the_access_goes_on_and_counts_once(file):
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt), record_access(file, access()):
            raise KeyboardInterrupt
    assert access_once(file).n == 1
    assert file.read_text().count('"accessed"') == 1


def test_what_was_killed_and_then_decided_otherwise_is_two_accesses(file):
    with pytest.raises(KeyboardInterrupt), record_access(file, access()):
        raise KeyboardInterrupt
    assert access_once(file, "b", MOVED).n == 2


def test_a_line_that_a_kill_cut_off_is_no_access(file):
    access_once(file)
    whole = file.read_bytes()
    file.write_bytes(whole + whole.splitlines()[0][:40])
    assert access_once(file).n == 2
    assert file.read_bytes().startswith(whole)
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_other_cohorts_are_counted_by_themselves_and_own_patients_together(file):
    access_once(file)
    assert access_once(file, own=False, cohort="elsewhere").n == 1
    assert access_once(file, own=False, cohort="elsewhere").sentence.startswith("The test set was read 2 times")
    assert access_once(file, own=True, cohort="half of the test patients").n == 2


def test_a_bundle_that_does_not_know_its_test_patients_counts_by_scans(file):
    access_once(file, own=None)
    assert access_once(file, own=None).n == 2
    assert access_once(file, own=None, cohort="other").n == 1


def test_accesses_in_a_file_that_cannot_be_written_to_are_counted_all_the_same(file, tmp_path):
    access_once(file)
    before = file.read_bytes()
    with record_access(tmp_path / "out" / ACCESS_LOG_FILE, access(), elsewhere=file) as counts:
        assert counts.n == 2
    assert file.read_bytes() == before


@pytest.mark.parametrize("damage", ["nonsense\n", "{}\n", '{"event": "accessed", "id": "x"}\n'])
def test_a_damaged_line_is_not_passed_over(file, damage):
    access_once(file)
    file.write_text(file.read_text() + damage)
    with pytest.raises(UsageError, match=f"{file.name}: line 3 is damaged.*Restore the file"):
        access_once(file)


def test_a_log_under_its_old_name_is_counted_and_gone_on_with_under_the_new(file, caplog):
    access_once(file)
    old = file.with_name("test_openings.jsonl")
    old.write_text(file.read_text().replace('"accessed"', '"opened"').replace('"access"', '"opening"'))
    file.unlink()
    before = old.read_bytes()
    assert access_once(file, "b").sentence.endswith("read 2 times, 1 of the earlier times with different decisions.")
    assert "test_openings.jsonl is now called test_access_log.jsonl" in caplog.text
    assert old.read_bytes() == before
    assert access_once(file, "b").n == 3


def test_what_was_interrupted_under_the_old_name_counts_once(file):
    with pytest.raises(KeyboardInterrupt), record_access(file, access()):
        raise KeyboardInterrupt
    file.rename(file.with_name("test_openings.jsonl"))
    assert access_once(file).n == 1
    assert access_once(file).n == 2


def test_what_cannot_be_recorded_is_not_read(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(OutputError), record_access(tmp_path / "run" / ACCESS_LOG_FILE, access()):
        pytest.fail("the test scans were read")


def test_a_test_set_of_which_a_part_is_the_runs_own_is_not_called_its_own(file):
    access_once(file)
    mixed = access(cohort="of both").model_copy(update={"all_own": False})
    with record_access(file, mixed) as counts:
        pass
    assert counts.n == 2
    said = "Scans of the run's own test set, among others, were read 2 times"
    assert counts.sentence == f"{said}, each time with the same decisions."
    assert times_read(counts, ENGLISH) == said
    assert times_read(counts.model_copy(update={"n": 1}), ENGLISH) == said.replace("2 times", "once")
