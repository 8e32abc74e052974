"""The queue keeps its guarantees: each step once, nothing lost in a kill, a late instance reopens the study."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from peers import until

from med_transfer.errors import OutputError
from med_transfer.hospital import database
from med_transfer.hospital.config import Retries
from med_transfer.hospital.queue import Delivery, Feedback, Instance, Queue, ResultFile, answering, receiving
from med_transfer.hospital.sender import deliver

PACS = ("PACS@127.0.0.1:4242", True)
FIRST = Instance("1.2.3.1", "s1", "1.2.3", "1.2.3.9", "mark", "ct", "implicit", "hash", "incoming/s1/1.dcm")


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(
        tmp_path / "node" / "queue.sqlite", Retries(attempts=2, predictions=2, first_seconds=10, longest_seconds=60)
    )


def predicted(queue: Queue, now: float = 100.0, uid: str = "2.25.1"):
    """The only study, closed and predicted with one result."""
    queue.complete(now, 0)
    study = queue.to_predict(now)
    assert study is not None
    assert queue.predicted(study, [ResultFile(uid, "sr", f"{uid}.dcm")], [PACS], now, [{"output": uid}])
    return study


def test_what_comes_at_once_waits_for_one_commit_and_a_failure_is_told(queue):
    commits: list[str] = []
    queue._database.set_trace_callback(lambda said: commits.append(said) if said == "COMMIT" else None)
    together = [replace(FIRST, sop_uid=f"1.2.3.{number}", file=f"{number}.dcm") for number in range(32)]
    with ThreadPoolExecutor(32) as pool:
        with queue._lock:  # somebody commits
            answers = [pool.submit(queue.add, instance, 0) for instance in together]
            until(lambda: len(queue._arrivals) == 32)
        assert {answer.result(240) for answer in answers} == {"new"}
    assert (len(commits), len(queue.instances("s1"))) == (1, 32)
    queue._database.execute("CREATE TRIGGER full BEFORE INSERT ON instance BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(sqlite3.Error, match="full"):
        queue.add(replace(FIRST, sop_uid="1.2.3.99"), 0)
    assert queue.would_add(replace(FIRST, sop_uid="1.2.3.99"), 100) == "new"


def test_a_study_goes_through_every_state(queue):
    assert queue.add(FIRST, 0) == "new"
    assert queue.complete(59, 60) == 0
    assert queue.complete(60, 60) == 1
    predicted(queue)
    (delivery,) = queue.to_send(PACS[0], 100)
    queue.sent(delivery, 100)
    assert queue.counts() == {"sent": 1}
    (sent,) = queue.to_commit(PACS[0], 100)
    queue.asked([sent], "2.25.7", 400)
    assert not queue.to_commit(PACS[0], 399)
    assert queue.to_commit(PACS[0], 400)
    queue.answered("2.25.7", "PACS", {"2.25.1"}, {}, 120)
    assert queue.counts() == {"committed": 1}
    assert [entry["event"] for entry in queue.entries()] == ["predicted", "sent", "committed"]


def test_each_step_may_be_done_again(queue):
    assert [queue.add(FIRST, 0), queue.add(FIRST, 1)] == ["new", "known"]
    study = predicted(queue)
    assert not queue.predicted(study, [ResultFile("2.25.1", "sr", "x")], [PACS], 101, [{}])
    (delivery,) = queue.to_send(PACS[0], 100)
    queue.sent(delivery, 100)
    queue.sent(delivery, 101)
    assert not queue.to_send(PACS[0], 1000)
    assert [entry["event"] for entry in queue.entries()] == ["predicted", "sent"]


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"sha256": "other"}, "conflict"),
        ({"study": "s2", "study_uid": "1.2.4"}, "conflict"),
        ({"sop_uid": "1.2.3.2", "patient_mark": "other"}, "another patient"),
        ({"sop_uid": "1.2.3.2"}, "too many"),
    ],
)
def test_what_does_not_fit_is_not_taken(queue, changes, answer):
    queue.add(FIRST, 0)
    assert queue.add(replace(FIRST, **changes), 1, max_instances=1) == answer
    assert len(queue.instances("s1")) == 1
    assert queue.counts() == {"received": 1}


def test_what_was_announced_is_waited_for_and_nothing_more(queue):
    queue.announce("s1", ["1.2.3.1", "1.2.3.2"], 0)
    queue.add(FIRST, 0)
    assert queue.complete(1e6, 60) == 0
    assert queue.add(replace(FIRST, sop_uid="1.2.3.2"), 100) == "new"
    assert queue.complete(100, 60) == 1  # all here: no quiet time
    assert queue.add(replace(FIRST, sop_uid="1.2.3.3"), 200) == "new"  # nobody has announced it: there may be more
    assert queue.complete(200, 60) == 0
    assert queue.complete(260, 60) == 1
    assert queue.studies()[0].revision == 2


def test_what_never_comes_is_waited_for_to_an_end_that_is_recorded(queue):
    queue.announce("s1", ["1.2.3.1", "1.2.3.2"], 0)
    queue.add(FIRST, 0)
    assert queue.complete(3599, 60, 3600) == 0
    assert queue.complete(3600, 60, 3600) == 1
    (entry,) = [entry for entry in queue.entries() if entry["event"] == "predicted though incomplete"]
    assert entry["missing"] == 1


def test_what_was_announced_and_never_came_is_forgotten_in_time(queue):
    queue.announce("s1", ["1.2.3.1", "1.2.3.2"], 0)
    queue.announce("never", ["1.2.4.1", "1.2.4.2"], 0)
    queue.announce("late", ["1.2.5.1"], 0)
    queue.announce("late", ["1.2.5.1"], 10)  # said again
    queue.add(FIRST, 0)
    assert [queue.forget_announced(before) for before in (0, 10, 10)] == [0, 2, 0]
    assert queue.complete(60, 60) == 0, "what has begun to come is waited for"
    (entry,) = [entry for entry in queue.entries() if entry["event"] == "announced images that never came forgotten"]
    assert entry["count"] == 2


def test_the_pacs_is_asked_after_the_quiet_time_and_again_while_something_is_missing(queue):
    queue.add(FIRST, 0)
    assert queue.to_count(59, 60) == []
    (study,) = queue.to_count(60, 60)
    assert queue.complete(60, 60, counting=True) == 0  # its answer is waited for
    queue.not_counted(study, "pacs_unreachable")
    assert queue.studies()[0].reason == "pacs_unreachable"
    queue.counted(study, ["1.2.3.1", "1.2.3.2"], 60)
    assert (queue.studies()[0].reason, queue.to_count(119, 60)) == ("missing_1", [])
    (study,) = queue.to_count(120, 60)
    assert queue.complete(120, 60, counting=True) == 0
    queue.add(replace(FIRST, sop_uid="1.2.3.2"), 121)
    assert queue.complete(121, 60, counting=True) == 1
    assert queue.studies()[0].reason == ""


def test_the_urgent_goes_first(queue):
    for number, priority in enumerate((0, 1, -1)):
        queue.add(replace(FIRST, sop_uid=f"1.2.3.{number}", study=f"s{number}"), number, priority=priority)
    queue.complete(100, 0)
    order = []
    while study := queue.to_predict(100):
        order.append(study.id)
        queue.predicted(study, [ResultFile(f"2.25.{study.id[1]}", "sr", "x")], [PACS], 100, [])
    assert order == ["s1", "s0", "s2"]
    assert [delivery.study for delivery in queue.to_send(PACS[0], 100)] == order


def test_the_urgent_does_not_wait_for_all_that_has_waited(queue):
    """Nor does a sender seem stuck, which is alive as often as it looks for what is due."""
    queue.add(FIRST, 0)
    queue.complete(100, 0)
    many = [ResultFile(f"2.25.{number}", "sr", "x") for number in range(1000)]
    assert queue.predicted(queue.to_predict(100), many, [PACS], 100, [])
    assert 0 < len(queue.to_send(PACS[0], 100)) <= 50
    queue.add(replace(FIRST, sop_uid="1.2.4.1", study="s2"), 0, priority=1)
    queue.complete(100, 0)
    assert queue.predicted(queue.to_predict(100), [ResultFile("2.25.9999", "sr", "x")], [PACS], 100, [])
    assert queue.to_send(PACS[0], 100)[0].sop_uid == "2.25.9999"
    for _ in range(20):
        for delivery in queue.to_send(PACS[0], 100)[:50]:
            queue.sent(delivery, 100)
    assert 0 < len(queue.to_commit(PACS[0], 100)) <= 50


def test_looking_for_what_is_to_do_does_not_look_at_all_that_was_ever_done(queue):
    """The node looks several times a second, and whoever sends an image waits for that."""
    with queue.writing() as writing:
        for number in range(3000):
            study, uid = f"s{number}", f"2.25.{number}"
            columns = (
                "INSERT INTO study (id, study_uid, patient_mark, state, changed) VALUES (?, ?, 'm', 'committed', 1)"
            )
            writing.execute(columns, (study, f"1.2.{number}"))
            writing.execute("INSERT INTO result VALUES (?, ?, 1, 'sr', 'x', '')", (uid, study))
            writing.execute(
                "INSERT INTO delivery (sop_uid, destination, state, commitment) VALUES (?, ?, 'committed', 1)",
                (uid, PACS[0]),
            )
    steps: list[int] = []
    queue._database.set_progress_handler(lambda: steps.append(100), 100)  # of SQLite's machine
    queue.complete(1e9, 60, 3600, counting=True)
    assert queue.to_predict(1e9) is None
    for found in (queue.to_count(1e9, 60), queue.to_send(PACS[0], 1e9), queue.to_commit(PACS[0], 1e9)):
        assert found == []
    assert sum(steps) < 3000


def test_a_queue_of_an_earlier_version_goes_on(tmp_path):
    Queue(tmp_path / "queue.sqlite").close()
    old = sqlite3.connect(tmp_path / "queue.sqlite")
    old.executescript("ALTER TABLE study DROP COLUMN priority; ALTER TABLE study DROP COLUMN counted;")
    old.close()
    assert Queue(tmp_path / "queue.sqlite").add(FIRST, 0, priority=1) == "new"


def test_a_queue_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path, command, monkeypatch):
    """The newer version has renamed a column, so it counts the layout up."""
    (tmp_path / "node.yaml").write_text("folder: state\n")
    (tmp_path / "newer.yaml").write_text("folder: restored\n")
    queue = tmp_path / "state/queue.sqlite"
    with monkeypatch.context() as newer:
        newer.setattr(database, "LAYOUT", database.LAYOUT + 1)
        newer.setattr(database, "_OWN_VERSION", "9.8.7")
        Queue(queue).close()
        with closing(sqlite3.connect(queue)) as later:
            later.execute("ALTER TABLE study RENAME COLUMN reason TO why")
        assert command("node", "backup", "-c", tmp_path / "node.yaml", "-o", tmp_path / "backup").code == 0
    before = queue.read_bytes()
    node = ("-c", tmp_path / "node.yaml")
    for told in (
        command("node", "status", *node),
        command("node", "backup", *node, "-o", tmp_path / "other"),
        command("node", "restore", tmp_path / "backup", "-c", tmp_path / "newer.yaml"),
        command("doctor", *node, "--json"),
    ):
        said = " ".join(f"{told.out} {told.err}".split())
        assert told.code in (1, 2)
        assert f"was written by med-transfer 9.8.7, in layout {database.LAYOUT + 1}" in said
        assert f"this med-transfer {version('med-transfer')} knows" in said
        assert "restore the backup from before the upgrade" in said
    assert queue.read_bytes() == before
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "restored/queue.sqlite").exists()


def test_a_late_instance_supersedes_what_was_not_sent(queue):
    queue.add(FIRST, 0)
    early = predicted(queue)
    assert queue.add(replace(FIRST, sop_uid="1.2.3.2"), 200) == "new"
    assert queue.counts() == {"received": 1}
    assert not queue.to_send(PACS[0], 1000)
    later = predicted(queue, 300, "2.25.2")
    assert (early.revision, later.revision) == (1, 2)
    assert [delivery.sop_uid for delivery in queue.to_send(PACS[0], 300)] == ["2.25.2"]
    assert queue.earlier_results(later) == []


def test_what_is_superseded_while_those_before_it_are_sent_is_not_sent(queue):
    queue.add(FIRST, 0)
    queue.complete(100, 0)
    results = [ResultFile(uid, "sr", uid) for uid in ("2.25.1", "2.25.2", "2.25.3")]
    assert queue.predicted(queue.to_predict(100), results, [PACS], 100, [])
    sent = []

    def send(delivery: Delivery) -> str:
        sent.append(delivery.sop_uid)
        queue.add(replace(FIRST, sop_uid="1.2.3.2"), 101)
        return ""

    assert [deliver(queue, one, send) for one in queue.to_send(PACS[0], 100)] == [True, False, False]
    assert sent == ["2.25.1"]
    assert [one.state for one in queue.deliveries()] == ["sent", "superseded", "superseded"]


def test_a_late_instance_names_what_was_sent(queue):
    queue.add(FIRST, 0)
    predicted(queue)
    queue.sent(queue.to_send(PACS[0], 100)[0], 100)
    queue.add(replace(FIRST, sop_uid="1.2.3.2"), 200)
    queue.complete(300, 0)
    study = queue.to_predict(300)
    assert study is not None
    assert [result.sop_uid for result in queue.earlier_results(study)] == ["2.25.1"]


class Killed(BaseException):
    """The node is, while a destination has what it was sent."""


def _sent(queue: Queue, outcome: str | BaseException, now: float) -> None:
    def send(_: Delivery) -> str:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    with suppress(Killed):
        deliver(queue, queue.to_send(PACS[0], now)[0], send)


def _never_committed(queue: Queue) -> None:
    _sent(queue, "", 100)
    for now in (200, 1000):
        queue.asked(queue.to_commit(PACS[0], now), f"2.25.{now}", now)


def _taken_and_refused(queue: Queue) -> None:
    _sent(queue, "", 100)
    queue.asked(queue.to_commit(PACS[0], 100), "2.25.7", 400)
    queue.answered("2.25.7", "PACS", set(), {"2.25.1": 0x0110}, 110)


FATES = {
    "killed after it was taken": (lambda queue: _sent(queue, Killed(), 100), True),
    "killed after it was taken, then unreachable": (
        lambda queue: (_sent(queue, Killed(), 100), _sent(queue, "unreachable", 200)),
        True,
    ),
    "no answer, then refused": (
        lambda queue: (_sent(queue, "no_answer", 100), _sent(queue, "refused_A700", 200)),
        True,
    ),
    "never committed": (_never_committed, True),
    "commitment refused": (_taken_and_refused, True),
    "refused": (lambda queue: _sent(queue, "refused_A700", 100), False),
    "unreachable": (lambda queue: _sent(queue, "unreachable", 100), False),
    "cannot be read": (lambda queue: _sent(queue, OSError(), 100), False),
}


@pytest.mark.parametrize("fate", FATES)
def test_a_late_instance_names_what_a_destination_may_have(queue, fate):
    happens, may_be_there = FATES[fate]
    queue.add(FIRST, 0)
    predicted(queue)
    happens(queue)
    queue.add(replace(FIRST, sop_uid="1.2.3.2"), 2000)
    queue.complete(3000, 0)
    study = queue.to_predict(3000)
    assert study is not None
    assert [result.sop_uid for result in queue.earlier_results(study)] == ["2.25.1"] * may_be_there
    assert queue.to_send(PACS[0], 3000) == []


@pytest.mark.parametrize("put_by_older", [True, False])
def test_what_an_older_version_has_sent_of_this_queue_is_named_too(queue, put_by_older):
    """After a downgrade and another upgrade: it writes down what was taken, and not what may be there."""
    queue.add(FIRST, 0)
    predicted(queue)
    with queue.writing() as writing:
        if put_by_older:
            writing.execute("DELETE FROM delivery")
            writing.execute("INSERT INTO delivery (sop_uid, destination, commitment) VALUES ('2.25.1', ?, 1)", PACS[:1])
        else:
            writing.execute("UPDATE delivery SET state = 'sent'")
    queue.add(replace(FIRST, sop_uid="1.2.3.2"), 200)
    queue.complete(300, 0)
    study = queue.to_predict(300)
    assert study is not None
    assert [result.sop_uid for result in queue.earlier_results(study)] == ["2.25.1"]


@pytest.mark.parametrize("code", ["refused_0111", "refused_B00E"])
def test_who_has_a_result_already_has_taken_it(queue, code):
    """As an archive says that keeps no second copy, of what it took before a kill or without an answer."""
    queue.add(FIRST, 0)
    predicted(queue)
    _sent(queue, Killed(), 100)
    _sent(queue, code, 200)
    assert (queue.counts(), queue.reasons()) == ({"sent": 1}, [])
    assert [entry["event"] for entry in queue.entries()].count("sent") == 1


def test_a_result_of_a_study_that_changed_meanwhile_counts_for_nothing(queue):
    queue.add(FIRST, 0)
    queue.complete(100, 0)
    study = queue.to_predict(100)
    queue.add(replace(FIRST, sop_uid="1.2.3.2"), 101)
    assert not queue.predicted(study, [ResultFile("2.25.1", "sr", "x")], [PACS], 102, [{}])
    assert queue.counts() == {"received": 1}


def test_tries_wait_longer_and_end_as_a_dead_letter(queue):
    queue.add(FIRST, 0)
    predicted(queue)
    (delivery,) = queue.to_send(PACS[0], 100)
    queue.not_sent(delivery, "refused_A700", 100)
    assert not queue.to_send(PACS[0], 104.9)
    (delivery,) = queue.to_send(PACS[0], 110)
    queue.not_sent(delivery, "refused_A700", 110)
    (study,) = queue.studies("dead")
    assert study.reason == "refused_A700"
    assert queue.retry() == 1
    assert queue.counts() == {"predicted": 1}
    assert queue.to_send(PACS[0], 110)


def test_waits_are_spread(queue):
    waits = {queue.wait_seconds(3) for _ in range(50)}
    assert len(waits) > 40
    assert min(waits) >= 30
    assert max(waits) <= 60


def test_a_prediction_that_fails_is_a_dead_letter_in_the_end(queue):
    queue.add(FIRST, 0)
    queue.complete(100, 0)
    for now in (100, 200):
        study = queue.to_predict(now)
        assert study is not None
        queue.not_predicted(study, "ScanAborted", now)
    assert queue.to_predict(1e6) is None
    assert queue.counts() == {"dead": 1}
    assert queue.retry("s1") == 1
    assert queue.to_predict(200) is not None


def test_a_commitment_that_is_refused_is_sent_again_and_a_strangers_answer_is_none(tmp_path):
    queue = Queue(tmp_path / "node" / "queue.sqlite", Retries(attempts=3, first_seconds=10, longest_seconds=60))
    queue.add(FIRST, 0)
    predicted(queue)
    queue.sent(queue.to_send(PACS[0], 100)[0], 100)
    queue.asked(queue.to_commit(PACS[0], 100), "2.25.7", 400)
    queue.answered("2.25.7", "STRANGER", {"2.25.1"}, {}, 110)
    queue.answered("2.25.8", "PACS", {"2.25.1"}, {}, 110)
    queue.answered("2.25.7", "PAC%", {"2.25.1"}, {}, 110)
    assert queue.counts() == {"sent": 1}
    queue.answered("2.25.7", "PACS", set(), {"2.25.1": 0x0112}, 110)
    (waiting,) = queue.to_send(PACS[0], 1000)
    assert waiting.attempts == 2  # the question and the refusal, so that it does not repeat forever
    assert queue.studies()[0].reason == "commitment_refused_0112"


def test_a_pacs_that_takes_and_never_commits_does_not_go_round_for_ever(tmp_path):
    queue = Queue(tmp_path / "node" / "queue.sqlite", Retries(attempts=6, first_seconds=10, longest_seconds=60))
    queue.add(FIRST, 0)
    predicted(queue)
    rounds, now = 0, 100.0
    while (due := queue.to_send(PACS[0], now)) and rounds < 20:
        queue.sent(due[0], now)
        queue.asked(queue.to_commit(PACS[0], now), f"2.25.{rounds}", now)
        queue.answered(f"2.25.{rounds}", "PACS", set(), {"2.25.1": 0x0122}, now)
        rounds, now = rounds + 1, now + 60
    assert rounds == 3
    assert [(study.state, study.reason) for study in queue.studies()] == [("dead", "commitment_refused_0122")]
    assert queue.retry() == 1
    queue.sent(queue.to_send(PACS[0], now)[0], now)
    assert queue.to_commit(PACS[0], now)[0].attempts == 0, "who tries again begins anew"


def test_what_a_later_revision_takes_the_place_of_is_not_sent_again(queue):
    queue.add(FIRST, 0)
    predicted(queue)
    queue.sent(queue.to_send(PACS[0], 100)[0], 100)
    queue.asked(queue.to_commit(PACS[0], 100), "2.25.7", 400)
    queue.add(replace(FIRST, sop_uid="1.2.3.2"), 200)
    predicted(queue, 300, "2.25.2")
    queue.sent(queue.to_send(PACS[0], 300)[0], 300)
    queue.answered("2.25.7", "PACS", set(), {"2.25.1": 0x0112}, 301)
    assert queue.to_send(PACS[0], 1e6) == [], "the report of all images is there; that of fewer would be the last word"
    assert {one.sop_uid: one.state for one in queue.deliveries()} == {"2.25.1": "superseded", "2.25.2": "sent"}
    assert (queue.retry(), queue.counts()) == (0, {"sent": 1})


def test_an_old_result_that_nobody_commits_to_is_no_dead_letter(queue):
    queue.add(FIRST, 0)
    predicted(queue)
    queue.sent(queue.to_send(PACS[0], 100)[0], 100)
    queue.add(replace(FIRST, sop_uid="1.2.3.2"), 200)
    for now in (300, 800):
        queue.asked(queue.to_commit(PACS[0], now), f"2.25.{now}", now + 300)
    assert [one.state for one in queue.deliveries()] == ["superseded"]
    assert (queue.retry(), "dead letter" in [entry["event"] for entry in queue.entries()]) == (0, False)


def test_commitment_that_is_not_asked_for_any_more_is_not_waited_for(queue):
    queue.add(FIRST, 0)
    predicted(queue)
    queue.sent(queue.to_send(PACS[0], 100)[0], 100)
    assert (queue.release([PACS[0]], 101), queue.to_forget(1e9)) == (0, [])
    assert (queue.release([], 101), queue.release([], 101)) == (1, 0)
    assert (queue.counts(), queue.to_forget(1e9)) == ({"sent": 1}, ["s1"])


def test_what_is_predicted_again_to_the_same_end_has_all_its_tries(queue):
    queue.add(FIRST, 0)
    predicted(queue)
    for now in (100, 200):
        queue.not_sent(queue.to_send(PACS[0], now)[0], "refused_A700", now)
    assert queue.counts() == {"dead": 1}
    assert queue.add_feedback(Feedback("ann", "s1", 1, 0, "rerun"), 300) is False, "there is no answer to judge"
    with queue.writing() as writing:
        answering.predict_again(writing, "s1", 300)
        receiving.supersede(writing, "s1")
    predicted(queue, 300)
    (again,) = queue.to_send(PACS[0], 300)
    assert again.attempts == 0


def test_a_prediction_that_failed_of_a_study_that_changed_is_not_in_the_record(queue):
    queue.add(FIRST, 0)
    queue.complete(100, 0)
    study = queue.to_predict(100)
    queue.add(replace(FIRST, sop_uid="1.2.3.2"), 101)
    queue.not_predicted(study, "ScanAborted", 102)
    assert [entry["event"] for entry in queue.entries()] == ["reopened"]


def test_an_answer_about_commitment_may_come_after_the_question_was_asked_again(queue):
    queue.add(FIRST, 0)
    predicted(queue)
    queue.sent(queue.to_send(PACS[0], 100)[0], 100)
    for now, transaction in ((100, "2.25.7"), (500, "2.25.8")):
        queue.asked(queue.to_commit(PACS[0], now), transaction, now + 300)
    for stranger in ("2.25", "25.7", "2.25.7 2.25.8x", "%"):
        queue.answered(stranger, "PACS", {"2.25.1"}, {}, 900)
    assert not queue.counts().get("committed")
    queue.answered("2.25.7", "PACS", {"2.25.1"}, {}, 900)  # an archive that commits by the hour
    assert queue.counts() == {"committed": 1}


def test_a_clock_that_was_set_back_only_delays(queue):
    queue.add(FIRST, 1e9)
    assert queue.complete(100, 60) == 0
    assert queue.complete(160, 60) == 1
    study = queue.to_predict(160)
    queue.not_predicted(study, "ScanAborted", 1e9)
    assert queue.to_predict(160) is not None


def test_what_was_done_in_the_future_is_not_kept_until_then(queue):
    """As after a wrong clock was set right."""
    queue.add(FIRST, 0)
    predicted(queue)
    (delivery,) = queue.to_send(PACS[0], 100)
    queue.sent(delivery, 1e9)
    queue.asked([delivery], "2.25.7", 1e9)
    queue.answered("2.25.7", "PACS", {"2.25.1"}, {}, 1e9)
    queue.set_aside("damaged", "CT1", "aside/1.dcm", 1e9)
    queue.announce("never comes", ["1.2.9"], 1e9)
    queue.correct_times(1000)
    assert (queue.to_forget(1000), queue.forgotten_aside(1000), queue.forget_announced(1000)) == ([], [], 0)
    assert (queue.to_forget(1001), queue.forgotten_aside(1001)) == (["s1"], ["aside/1.dcm"])
    assert queue.forget_announced(1001) == 1


def test_files_are_forgotten_only_when_all_is_done(queue):
    queue.add(FIRST, 0)
    predicted(queue)
    assert queue.to_forget(1e9) == []
    queue.sent(queue.to_send(PACS[0], 100)[0], 100)
    assert queue.to_forget(1e9) == []  # commitment was asked for, and has not come
    queue.asked(queue.to_commit(PACS[0], 100), "2.25.7", 400)
    queue.answered("2.25.7", "PACS", {"2.25.1"}, {}, 110)
    assert queue.to_forget(110) == []
    assert queue.to_forget(111) == ["s1"]
    assert queue.forgotten("s1", 111) == [FIRST.file]
    assert queue.to_forget(111) == []
    assert queue.deleted("s1") == 1
    assert queue.add(FIRST, 200) == "new"  # the same study, sent again
    assert queue.deleted("s1") == 0
    predicted(queue, 300)
    assert queue.counts() == {"committed": 1}  # the PACS has this very result
    assert not queue.to_send(PACS[0], 300)


def test_a_study_that_is_opened_again_while_others_are_deleted_keeps_its_files(queue):
    queue.add(FIRST, 0)
    predicted(queue)
    queue.sent(queue.to_send(PACS[0], 100)[0], 100)
    queue.asked(queue.to_commit(PACS[0], 100), "2.25.7", 400)
    queue.answered("2.25.7", "PACS", {"2.25.1"}, {}, 110)
    assert queue.to_forget(111) == ["s1"]
    late = replace(FIRST, sop_uid="1.2.3.2", file="incoming/s1/2.dcm")
    assert queue.add(late, 112) == "new"
    assert queue.forgotten("s1", 1e9) == []
    assert queue.deleted("s1") == 0
    queue.complete(200, 0)
    study = queue.to_predict(200)
    assert queue.predicted(study, [], [], 200, [{}])  # as of a study that is not for this bundle: nothing to send
    assert queue.forgotten("s1", 201) == [FIRST.file, late.file]


def test_images_whose_results_have_no_destination_any_more_are_not_kept_for_ever(queue):
    """Neither of a study that failed, nor while another destination has yet to store its results or to commit."""
    queue.add(FIRST, 0)
    queue.complete(100, 0)
    study = queue.to_predict(100)
    viewer = ("VIEWER@127.0.0.1:104", False)
    assert queue.predicted(study, [ResultFile("2.25.1", "sr", "1.dcm")], [PACS, viewer], 100, [{}])
    assert queue.abandon([viewer[0]], 100) == 1
    assert queue.to_forget(1e9) == []
    (delivery,) = queue.to_send(viewer[0], 100)
    queue.not_sent(replace(delivery, attempts=10**6), "refused_A700", 100)
    assert queue.to_forget(1e9) == []
    queue.sent(delivery, 110)
    assert queue.counts() == {"dead": 1}
    assert (queue.to_forget(110), queue.to_forget(111)) == ([], ["s1"])
    queue.retry()  # the destination is back: the result, which is kept, goes there
    assert queue.to_forget(1e9) == []
    assert [one.destination for one in queue.to_send(PACS[0], 200)] == [PACS[0]]


def test_what_was_canceled_or_set_aside_is_not_kept_for_ever(queue):
    queue.add(FIRST, 0)
    with queue.writing() as writing:
        writing.execute("UPDATE study SET state = 'dead', reason = 'canceled'")
    assert (queue.to_forget(1), queue.forgotten("s1", 1)) == (["s1"], [FIRST.file])
    queue.set_aside("damaged", "CT1", "aside/1.dcm", 1)
    assert (queue.forgotten_aside(1), queue.forgotten_aside(2), queue.forgotten_aside(2)) == ([], ["aside/1.dcm"], [])
    assert queue.reasons() == [("damaged", 1)]


def test_what_was_canceled_is_predicted_only_when_asked_for_by_name_and_waits_for_its_images(queue):
    queue.add(FIRST, 0)
    queue.announce("s1", [FIRST.sop_uid, "1.2.3.2"], 0)
    with queue.writing() as writing:
        writing.execute("UPDATE study SET state = 'dead', reason = 'canceled'")
    assert queue.retry() == 0  # as after the PACS was down
    assert [(study.state, study.reason) for study in queue.studies()] == [("dead", "canceled")]
    assert queue.retry("s1") == 1
    assert queue.complete(100, 60, 3600) == 0  # an image is missing
    queue.add(replace(FIRST, sop_uid="1.2.3.2"), 200)
    assert queue.complete(200, 60, 3600) == 1


def test_a_result_for_a_destination_that_is_named_no_more_is_a_dead_letter(queue):
    queue.add(FIRST, 0)
    predicted(queue)
    assert queue.abandon([PACS[0]], 100) == 0
    assert queue.abandon(["PACS@127.0.0.1:104"], 100) == 1  # the PACS has another port now
    assert [(study.state, study.reason) for study in queue.studies()] == [("dead", "no_destination")]
    assert queue.retry() == 1
    assert queue.to_send(PACS[0], 100)  # where it is named again


def test_results_for_a_former_destination_go_to_the_one_in_its_place(queue):
    queue.add(FIRST, 0)
    predicted(queue)
    moved = ("PACS@127.0.0.1:104", False)
    queue.abandon([moved[0]], 100)
    assert queue.without_destination() == {PACS[0]: 1}
    assert queue.redirect("OTHER@127.0.0.1:104", moved, 110) == 0
    assert queue.redirect(PACS[0], moved, 110) == 1
    assert queue.without_destination() == {}
    assert [(study.state, study.reason) for study in queue.studies()] == [("predicted", "")]
    assert queue.to_send(PACS[0], 110) == []
    (delivery,) = queue.to_send(moved[0], 110)
    queue.sent(delivery, 120)
    assert queue.counts() == {"sent": 1}
    assert queue.redirect(moved[0], PACS, 130) == 0  # it is stored there, and nobody is to commit
    assert "redirected" in [entry["event"] for entry in queue.entries()]


def test_a_result_that_goes_to_the_new_destination_anyway_goes_there_once(queue):
    queue.add(FIRST, 0)
    queue.complete(100, 0)
    study, viewer = queue.to_predict(100), ("VIEWER@127.0.0.1:104", False)
    assert study is not None
    assert queue.predicted(study, [ResultFile("2.25.1", "sr", "1.dcm")], [PACS, viewer], 100, [{}])
    queue.sent(queue.to_send(viewer[0], 100)[0], 100)
    queue.abandon([viewer[0]], 100)
    assert queue.counts() == {"dead": 1}
    assert queue.redirect(PACS[0], viewer, 110) == 1
    assert (queue.counts(), queue.to_send(viewer[0], 120)) == ({"sent": 1}, [])


def test_another_process_goes_on_after_a_kill(queue, tmp_path):
    queue.add(FIRST, 0)
    again = Queue(tmp_path / "node" / "queue.sqlite")
    assert again.add(FIRST, 1) == "known"
    predicted(again)
    assert queue.counts() == {"predicted": 1}
    assert (tmp_path / "node" / "queue.sqlite").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "node").stat().st_mode & 0o777 == 0o700


def test_quiet_time_begins_anew_after_the_node_was_down(queue):
    queue.add(FIRST, 0)
    queue.listening(1000)
    assert queue.complete(1059, 60) == 0
    assert queue.complete(1060, 60) == 1


def test_what_is_no_queue_is_refused(tmp_path):
    (tmp_path / "queue.sqlite").write_text("no database, but long enough to be looked at" * 50)
    with pytest.raises(OutputError, match=r"queue\.sqlite: is no queue of a node"):
        Queue(tmp_path / "queue.sqlite")


def test_a_full_disk_and_a_lock_are_told_as_such_and_pass(queue, tmp_path, monkeypatch):
    queue.add(FIRST, 0)
    (pages,) = queue._database.execute("PRAGMA page_count").fetchone()
    queue._database.execute(f"PRAGMA max_page_count = {pages}")  # as where the disk is full
    long = replace(FIRST, sop_uid="1.2.3.2", file="x" * 100_000)
    with pytest.raises(OutputError, match=r"queue.sqlite: cannot be written \(database or disk is full\)"):
        queue.add(long, 1)
    queue._database.execute("PRAGMA max_page_count = 100000")
    assert queue.add(long, 2) == "new"
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *given, **named: connect(*given, **named | {"timeout": 0.1}))
    with closing(connect(tmp_path / "node" / "queue.sqlite")) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            OutputError, match=r"queue\.sqlite: cannot be written \(database is locked\).* leave it there"
        ):
            Queue(tmp_path / "node" / "queue.sqlite")


def test_the_record_cannot_be_changed_unseen(queue, tmp_path):
    queue.add(FIRST, 0)
    predicted(queue)
    queue.set_aside("damaged", "CT1", "aside/1.dcm", 1)
    assert (queue.audit().entries, queue.audit().broken) == (2, 0)
    outside = sqlite3.connect(tmp_path / "node" / "queue.sqlite")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        outside.execute("UPDATE record SET entry = '{}'")
    outside.execute("DROP TRIGGER record_no_update")
    outside.execute("UPDATE record SET entry = '{}' WHERE number = 1")
    outside.commit()
    assert queue.audit().broken == 1
