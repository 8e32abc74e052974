"""The lock on decisions: what it covers, what it does not, and that a change is named."""

import hashlib
import json

import pytest

from med_transfer.bundle.decisions_lock import DECISIONS_FILE, lock_hash, require_lock, write_lock
from med_transfer.errors import BundleError
from med_transfer.metrics.records.metrics import Metrics, reported_metrics

RECORD = {
    "classes": ["a", "b"],
    "operating_point": {"rule": "class_threshold", "thresholds": {"a": 0.1}},
    "trained_on": {"cohort_hash": "c", "patient_hashes": ["p"]},
    "versions": {"torch": "2"},
}


def locked(**changes) -> dict:
    return RECORD | changes | {"lock_hash": lock_hash(RECORD)}


@pytest.fixture
def run(tmp_path):
    write_lock(tmp_path, RECORD)
    return tmp_path


def test_the_hash_is_sha256_of_canonical_json_of_all_decisions():
    text = '{"classes":["a","b"],"cohort_hash":"c","operating_point":{"rule":"class_threshold","thresholds":{"a":0.1}}}'
    assert lock_hash(RECORD) == hashlib.sha256(text.encode()).hexdigest()
    assert lock_hash(dict(reversed(RECORD.items()))) == lock_hash(RECORD)


@pytest.mark.parametrize("change", [{"versions": {}}, {"trained_on": {"cohort_hash": "c"}}, {"lock_hash": "x"}])
def test_what_decides_nothing_is_not_hashed(change):
    assert lock_hash(RECORD | change) == lock_hash(RECORD)


@pytest.mark.parametrize(
    "change", [{"classes": ["b", "a"]}, {"trained_on": {"cohort_hash": "d"}}, {"of_a_later_version": None}]
)
def test_everything_else_is(change):
    assert lock_hash(RECORD | change) != lock_hash(RECORD)


def test_the_locked_record_passes_with_and_without_its_run_and_an_older_one_without(run):
    require_lock(locked(), run / "record", run)
    require_lock(locked(), run / "record")
    require_lock(RECORD, run / "record")


def test_what_was_changed_is_named(run):
    changed = locked(operating_point={"rule": "argmax"}, classes=["b", "a"])
    with pytest.raises(BundleError, match=r"record: not as it was locked before the test: classes, operating_point; "):
        require_lock(changed, run / "record", run)
    with pytest.raises(BundleError, match=r"changed after it was locked; expected decisions with SHA-256"):
        require_lock(changed, run / "record")
    relocked = changed | {"lock_hash": lock_hash(changed)}  # one file edited consistently is detected by the other
    with pytest.raises(BundleError, match="before the test: classes, lock_hash, operating_point"):
        require_lock(relocked, run / "record", run)
    with pytest.raises(BundleError, match="before the test: lock_hash"):
        require_lock(RECORD, run / "record", run)


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"lock_hash": "x"}'])
def test_a_damaged_or_edited_lock_is_no_lock(run, damage):
    (run / DECISIONS_FILE).write_text(damage)
    with pytest.raises(BundleError, match=f"{DECISIONS_FILE}: is not a lock on decisions, or was edited"):
        require_lock(locked(), run / "record", run)


def test_an_edited_lock_does_not_speak_for_an_edited_record(run):
    content = json.loads((run / DECISIONS_FILE).read_text()) | {"classes": ["b", "a"]}
    (run / DECISIONS_FILE).write_text(json.dumps(content))
    with pytest.raises(BundleError, match="or was edited. Restore it from a copy"):
        require_lock(locked(classes=["b", "a"]), run / "record", run)


def test_the_measures_to_report_are_in_metrics_json():
    fields = {name for name in reported_metrics() if "." not in name}
    assert fields <= set(Metrics.model_fields)
    assert {"classes.sensitivity", "classes.specificity", "classes.auc", "macro_auc"} <= set(reported_metrics())
    assert not {"n_scans", "labels", "domain", "classes.n"} & set(reported_metrics())
    assert len(set(reported_metrics())) == len(reported_metrics())
