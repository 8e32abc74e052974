"""``med-transfer node``: what a person sees of the queue."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import sys
import tracemalloc
from dataclasses import replace
from getpass import getuser
from pathlib import Path

import pytest
from tiny_bundle import tiny_bundle

from med_transfer.hospital import record
from med_transfer.hospital.config import read_node_config
from med_transfer.hospital.queue import Feedback, Instance, Queue, ResultFile, SeriesAnswer
from med_transfer.hospital.review.access.audit import AuditTrail
from med_transfer.hospital.review.access.database import Database

DAMAGED = Instance("1.2.3.1", "s1", "1.2.3", "1.2.3.9", "mark", "ct", "implicit", "hash", "incoming/s1/1.dcm")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "node.yaml"
    path.write_text("folder: state\nretries: {predictions: 1}\n")
    return path


@pytest.fixture
def stuck(config: Path) -> Queue:
    node = read_node_config(config)
    queue = Queue(node.queue_file, node.retries)
    queue.add(DAMAGED, 0)
    queue.complete(100, 0)
    queue.not_predicted(queue.to_predict(100), "ScanAborted", 100)
    queue.set_aside("damaged", "CT1", "aside/1.dcm", 100)
    return queue


def test_status_says_what_is_stuck(command, config, stuck):
    told = command("node", "status", "-c", config)
    assert told.code == 0
    assert "1 dead" in told.out
    assert "study s1: dead, ScanAborted" in told.out
    assert "set aside: 1 damaged" in told.out
    assert json.loads(command("node", "status", "-c", config, "--json").out)["studies"] == {"dead": 1}


def test_retry(command, config, stuck):
    assert command("node", "retry", "-c", config, "s1").out == "1 to be retried\n"
    assert stuck.counts() == {"complete": 1}


def test_export_and_audit(command, config, stuck, tmp_path):
    out = tmp_path / "record.jsonl"
    assert command("node", "export", "-c", config, "-o", out).code == 0
    events = [json.loads(line)["event"] for line in out.read_text().splitlines()]
    assert events == ["not predicted", "set aside"]
    told = command("node", "audit", "-c", config)
    assert (told.code, told.out.split(";")[0]) == (0, "2 entries, unbroken")


def accesses(command, config, folder: Path) -> list[str]:
    """What was done, as the record of who did what has it."""
    assert command("node", "export", "-c", config, "-o", folder / "accesses.jsonl", "--accesses").code == 0
    events = [json.loads(line) for line in (folder / "accesses.jsonl").read_text().splitlines()]
    assert {event["agent"][0]["altId"] for event in events} <= {f"{getuser()} (command line)"}
    return [event["subtype"][0]["display"] for event in events]


def test_a_long_record_is_exported_piece_by_piece(command, config, stuck, tmp_path):
    database, n, remark = Database(read_node_config(config).access_file), 5000, "x" * 2000  # 10 MB
    with database.writing() as connection:
        for number in range(n):
            record.append(connection, "saw study", resource={"id": number, "outcomeDesc": remark})
    tracemalloc.start()
    try:
        assert command("node", "export", "-c", config, "-o", tmp_path / "out.jsonl", "--accesses").code == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == list(range(n))
    assert peak < n * len(remark) * 0.8
    read = record.all_entries(database.reading)
    assert next(read)["number"] == 1
    AuditTrail(database, "STATION").tell_here("saw load")  # while the record is read
    assert [entry["event"] for entry in read][-2:] == ["exported accesses", "saw load"]


def test_who_takes_something_out_is_in_the_record(command, config, stuck, tmp_path):
    assert accesses(command, config, tmp_path) == []
    assert command("node", "export", "-c", config, "-o", tmp_path / "record.jsonl").code == 0
    stuck.add(replace(DAMAGED, study="s2", study_uid="1.2.4", sop_uid="1.2.4.1"), 0)
    stuck.complete(10, 0)
    assert stuck.predicted(
        stuck.to_predict(10), [], [], 10, [{}], [SeriesAnswer({}, bundle="mark", series_uid="1.2.4.9")]
    )
    tiny_bundle(tmp_path / "state/bundles/mark")
    assert stuck.add_feedback(Feedback("ann", "s2", 1, 0, "agree", "benign"), 11)
    assert command("node", "labels", "-c", config, "-o", tmp_path / "labels.csv").code == 0
    assert accesses(command, config, tmp_path) == ["exported accesses", "exported record", "exported labels"]
    assert "4 entries of the review page, unbroken" in command("node", "audit", "-c", config).out


def test_prune_deletes_what_is_done_and_nothing_else(command, config, tmp_path):
    queue, images = Queue(tmp_path / "state" / "queue.sqlite"), {}
    for name in ("done", "asked", "waiting"):
        images[name] = tmp_path / "state" / "incoming" / name / "1.dcm"
        images[name].parent.mkdir(parents=True)
        images[name].write_bytes(b"x" * 1000)
        file = f"incoming/{name}/1.dcm"
        queue.add(Instance(f"1.2.{name}", name, f"1.3.{name}", "1.4", "mark", "ct", "implicit", "hash", file), 0)
        if name != "waiting":
            queue.complete(10, 0)
            results = [ResultFile(f"2.25.{name}", "1.2.3", f"results/{name}.dcm")]
            assert queue.predicted(queue.to_predict(10), results, [("PACS@x:1", name == "asked")], 10, [{}])
            queue.sent(queue.to_send("PACS@x:1", 10)[0], 10)
    told = command("node", "prune", "-c", config, "--dry-run")
    assert (told.code, told.out) == (0, "study done: 1 image, 0.0 MB\n1 image of 1 study would be deleted\n")
    assert images["done"].exists()
    assert command("node", "prune", "-c", config, "--days", "1e6").out == "0 images of 0 studies deleted\n"
    assert command("node", "prune", "-c", config).out.endswith("1 image of 1 study deleted\n")
    assert [path.exists() for path in images.values()] == [False, True, True]
    assert [entry["event"] for entry in queue.entries() if entry.get("study") == "done"][-1] == "files deleted"
    assert accesses(command, config, tmp_path) == ["deleted images"]
    assert command("node", "prune", "-c", config).out == "0 images of 0 studies deleted\n"
    config.write_text("folder: state\nstudy: {keep_days: null}\n")
    told = command("node", "prune", "-c", config)
    assert (told.code, "expected --days" in told.err) == (2, True)


def test_images_are_not_deleted_where_that_cannot_be_recorded(command, config, tmp_path):
    image, queue = tmp_path / "state/incoming/s1/1.dcm", Queue(tmp_path / "state/queue.sqlite")
    image.parent.mkdir(parents=True)
    image.write_bytes(b"x")
    queue.add(DAMAGED, 0)
    queue.complete(10, 0)
    study = queue.to_predict(10)
    assert study
    assert queue.predicted(study, [], [], 10, [{}])
    accessed = read_node_config(config).access_file
    Database(accessed).close()
    with sqlite3.connect(accessed) as database:
        database.execute("PRAGMA user_version = 99")
    told = command("node", "prune", "-c", config, "--days", "0")
    assert (told.code, "was written by" in told.err) == (2, True), told.err
    assert image.exists()
    accessed.unlink()
    assert command("node", "prune", "-c", config, "--days", "0").out.endswith("1 image of 1 study deleted\n")
    assert not image.exists()
    assert accesses(command, config, tmp_path) == ["deleted images"]


def test_a_user_with_a_password_is_told_of_single_sign_on(command, config, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(2 * "a long password\n"))
    add = ("node", "user", "add", "ann", "-c", config)
    assert command(*add).out == "ann may sign in as reader\n"
    config.write_text("folder: state\npage: {oidc: {issuer: 'https://id', client_id: a, roles: {b: reader}}}\n")
    assert command(*add).out == "ann may sign in as reader, but not while node.yaml has page.oidc\n"


@pytest.mark.parametrize(
    ("asked", "code"),
    [(("user", "list"), 0), (("user", "remove", "ann"), 2), (("export", "--accesses", "-o", "accesses.jsonl"), 2)],
)
def test_looking_makes_no_folder_into_which_a_backup_could_not_be_restored(
    command, config, asked, code, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert command("node", *asked, "-c", config).code == code
    assert not (tmp_path / "state").exists()


def test_no_node_has_run_here(command, config):
    told = command("node", "status", "-c", config)
    assert told.code == 2
    assert "no node has run here" in told.err


def test_root_does_not_write_into_the_folder_of_the_services_user(command, config, stuck, monkeypatch, tmp_path):
    folder = tmp_path / "state"
    if os.geteuid() == 0:
        for path in (folder, *folder.iterdir()):
            os.chown(path, 4242, 4242)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    before = sorted(folder.iterdir())
    for arguments in (["export", "-o", tmp_path / "record.jsonl"], ["backup", "-o", tmp_path / "backup"]):
        told = command("node", *arguments, "-c", config)
        assert (told.code, "could not read what root writes" in told.err) == (2, True)
        assert "Put before it: sudo -u" in told.err
    told = command("serve", "-c", config)
    assert (told.code, "could not read what root writes" in told.err) == (2, True)
    assert sorted(folder.iterdir()) == before
    assert "warning user: " in command("doctor", "-c", config).out


def test_the_doctor_names_a_queue_that_is_none_or_cannot_be_opened(command, config, tmp_path):
    queue = tmp_path / "state/queue.sqlite"
    queue.parent.mkdir()
    queue.write_text("no database at all, but longer than the header of one")
    told = command("doctor", "-c", config)
    assert (told.code, "problem queue: " in told.out, "Restore a backup" in told.out) == (1, True, True)
    queue.unlink()
    queue.mkdir()
    told = command("doctor", "-c", config)
    assert (told.code, "problem queue: " in told.out, "Check the disk" in told.out) == (1, True, True)


def test_results_of_a_renamed_pacs_are_named_and_redirected(command, config, stuck):
    old, new = "PACS@127.0.0.1:104", "ARCHIVE@127.0.0.1:104"
    stuck.retry()
    study = stuck.to_predict(200)
    assert study is not None
    assert stuck.predicted(study, [ResultFile("2.25.1", "sr", "1.dcm")], [(old, True)], 200, [{}])
    with config.open("a") as file:
        file.write("destinations: [{ae_title: ARCHIVE, address: 127.0.0.1, port: 104}]\n")
    said = f"1 for {old}, which node.yaml does not name: med-transfer node redirect {old} NEW"
    assert command("node", "retry", "-c", config).out == f"0 to be retried\n{said}\n"
    assert said in command("node", "status", "-c", config).out
    assert json.loads(command("node", "status", "-c", config, "--json").out)["without_destination"] == {old: 1}
    wrong = command("node", "redirect", old, "ARCHIV@127.0.0.1:104", "-c", config)
    assert (wrong.code, f"expected one of {new}" in wrong.err) == (2, True)
    assert "node.yaml still names" in command("node", "redirect", new, new, "-c", config).err
    assert command("node", "redirect", old, new, "-c", config).out == f"1 result redirected to {new}\n"
    assert [one.destination for one in stuck.to_send(new, 300)] == [new]
