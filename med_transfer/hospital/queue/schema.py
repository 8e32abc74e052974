"""The queue's tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from med_transfer.hospital import record
from med_transfer.hospital.queue import answering

_SCHEMA = """
CREATE TABLE IF NOT EXISTS study (
    id TEXT PRIMARY KEY, study_uid TEXT NOT NULL, patient_mark TEXT NOT NULL, state TEXT NOT NULL,
    revision INTEGER NOT NULL DEFAULT 1, changed REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    next_try REAL NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '', files_kept INTEGER NOT NULL DEFAULT 1,
    priority INTEGER NOT NULL DEFAULT 0, counted REAL NOT NULL DEFAULT -1);
CREATE TABLE IF NOT EXISTS instance (
    sop_uid TEXT PRIMARY KEY, study TEXT NOT NULL REFERENCES study, series_uid TEXT NOT NULL, sop_class TEXT NOT NULL,
    transfer_syntax TEXT NOT NULL, sha256 TEXT NOT NULL, file TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS instance_study ON instance (study);
CREATE TABLE IF NOT EXISTS expected (
    study TEXT NOT NULL, sop_uid TEXT NOT NULL, announced REAL NOT NULL DEFAULT 0, PRIMARY KEY (study, sop_uid));
CREATE TABLE IF NOT EXISTS result (
    sop_uid TEXT PRIMARY KEY, study TEXT NOT NULL REFERENCES study, revision INTEGER NOT NULL, sop_class TEXT NOT NULL,
    file TEXT NOT NULL, route TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS result_study ON result (study);
CREATE TABLE IF NOT EXISTS delivery (
    sop_uid TEXT NOT NULL REFERENCES result, destination TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'waiting',
    commitment INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, next_try REAL NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '', transaction_uid TEXT NOT NULL DEFAULT '', may_be_there INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (sop_uid, destination));
CREATE TABLE IF NOT EXISTS workitem (
    uid TEXT PRIMARY KEY, transaction_uid TEXT NOT NULL, study TEXT NOT NULL, study_uid TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'claiming', claimed REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    next_try REAL NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '', progress INTEGER NOT NULL DEFAULT 0,
    cancel INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS bundle (number INTEGER PRIMARY KEY, route TEXT NOT NULL, mark TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS aside (
    number INTEGER PRIMARY KEY, time REAL NOT NULL, reason TEXT NOT NULL, caller TEXT NOT NULL, file TEXT NOT NULL);
"""
_PENDING_INDEXES = """
CREATE INDEX IF NOT EXISTS study_state ON study (state, changed);
CREATE INDEX IF NOT EXISTS study_next_try ON study (next_try) WHERE next_try > 0;
CREATE INDEX IF NOT EXISTS delivery_state ON delivery (state, destination, next_try);
CREATE INDEX IF NOT EXISTS delivery_next_try ON delivery (next_try) WHERE next_try > 0;
"""  # for queries that run several times a second and match only a small part of the tables
_REVIEW_SCHEMA = """
CREATE TABLE IF NOT EXISTS worklist (
    study TEXT PRIMARY KEY REFERENCES study, received REAL NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,
    patient_name TEXT NOT NULL DEFAULT '', patient_id TEXT NOT NULL DEFAULT '', accession TEXT NOT NULL DEFAULT '',
    study_date TEXT NOT NULL DEFAULT '', modality TEXT NOT NULL DEFAULT '', description TEXT NOT NULL DEFAULT '',
    described INTEGER NOT NULL DEFAULT 0, answer TEXT NOT NULL DEFAULT '', top_class TEXT NOT NULL DEFAULT '',
    top_probability REAL NOT NULL DEFAULT -1, because TEXT NOT NULL DEFAULT '', judged TEXT NOT NULL DEFAULT '',
    searched TEXT AS (patient_name || char(10) || patient_id || char(10) || accession || char(10) || description ||
        char(10) || study) STORED);
CREATE INDEX IF NOT EXISTS worklist_received ON worklist (received, study);
CREATE INDEX IF NOT EXISTS worklist_state ON worklist (state, received, study);
CREATE INDEX IF NOT EXISTS worklist_name ON worklist (patient_name, study);
CREATE INDEX IF NOT EXISTS worklist_date ON worklist (study_date, study);
CREATE INDEX IF NOT EXISTS worklist_class ON worklist (top_class, study);
CREATE INDEX IF NOT EXISTS worklist_probability ON worklist (top_probability, study);
CREATE TRIGGER IF NOT EXISTS worklist_begins AFTER INSERT ON study BEGIN
    INSERT INTO worklist (study, received, state, reason) VALUES (new.id, new.changed, new.state, new.reason); END;
CREATE TRIGGER IF NOT EXISTS worklist_follows AFTER UPDATE ON study
    WHEN new.state != old.state OR new.reason != old.reason BEGIN
    UPDATE worklist SET state = new.state, reason = new.reason WHERE study = new.id; END;
DROP TRIGGER IF EXISTS worklist_unjudged;
CREATE TABLE IF NOT EXISTS call (
    study TEXT NOT NULL REFERENCES study, name TEXT NOT NULL, series INTEGER NOT NULL, PRIMARY KEY (study, name));
CREATE INDEX IF NOT EXISTS call_name ON call (name, study);
CREATE TRIGGER IF NOT EXISTS call_unsaid AFTER UPDATE ON study WHEN new.revision != old.revision BEGIN
    DELETE FROM call WHERE study = new.id; END;
CREATE TRIGGER IF NOT EXISTS worklist_unsaid AFTER UPDATE ON study WHEN new.revision != old.revision BEGIN
    UPDATE worklist SET judged = '', answer = '', top_class = '', top_probability = -1, because = ''
    WHERE study = new.id; END;
CREATE TABLE IF NOT EXISTS answer (
    study TEXT NOT NULL REFERENCES study, revision INTEGER NOT NULL, number INTEGER NOT NULL, route TEXT NOT NULL,
    bundle TEXT NOT NULL, series_uid TEXT NOT NULL, map_file TEXT NOT NULL, facts TEXT NOT NULL,
    PRIMARY KEY (study, revision, number));
CREATE TABLE IF NOT EXISTS feedback (
    number INTEGER PRIMARY KEY, time REAL NOT NULL, user TEXT NOT NULL, study TEXT NOT NULL REFERENCES study,
    revision INTEGER NOT NULL, answer INTEGER NOT NULL, kind TEXT NOT NULL, label TEXT, comment TEXT NOT NULL,
    series_uid TEXT NOT NULL, bundle TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS feedback_study ON feedback (study);
CREATE TRIGGER IF NOT EXISTS feedback_no_update BEFORE UPDATE ON feedback
    BEGIN SELECT RAISE(ABORT, 'feedback is append-only'); END;
CREATE TRIGGER IF NOT EXISTS feedback_no_delete BEFORE DELETE ON feedback
    BEGIN SELECT RAISE(ABORT, 'feedback is append-only'); END;
"""
_ADDED_COLUMNS = {  # columns that queues of earlier versions lack
    "delivery": {"may_be_there": "INTEGER NOT NULL DEFAULT 1"},  # earlier versions do not store what they begin to send
    "expected": {"announced": "REAL NOT NULL DEFAULT 0"},
    "result": {"route": "TEXT NOT NULL DEFAULT ''"},
    "study": {"priority": "INTEGER NOT NULL DEFAULT 0", "counted": "REAL NOT NULL DEFAULT -1"},
}
_LAST_USED = "SELECT route, mark FROM bundle WHERE number IN (SELECT max(number) FROM bundle GROUP BY route)"


def escape_like(text: str) -> str:
    """Escape text for ``LIKE ... ESCAPE '\\'``, so that it matches literally."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def bundles_in_use(database: sqlite3.Connection, routes: Iterable[str]) -> dict[str, str]:
    """Mark of the bundle in use for each of these routes, those of node.yaml, that has one."""
    marks = dict(database.execute(_LAST_USED).fetchall())
    return {route: marks[route] for route in routes if route in marks}


def create_tables(database: sqlite3.Connection) -> None:
    """Create the tables of a queue, or extend those of an earlier version."""
    database.executescript(f"{_SCHEMA}{record.SCHEMA}")
    _add_columns(database)
    database.executescript(_PENDING_INDEXES)
    database.executescript(_REVIEW_SCHEMA)
    answering.take_over(database)
    answering.count_calls_of_earlier_versions(database)


def _add_columns(database: sqlite3.Connection) -> None:
    for table, columns in _ADDED_COLUMNS.items():
        there = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
        for name in columns.keys() - there:
            database.execute(f"ALTER TABLE {table} ADD COLUMN {name} {columns[name]}")
