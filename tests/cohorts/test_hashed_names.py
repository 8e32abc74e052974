"""Hashes of patients: slow to guess, salted per cohort, and still comparable in both directions."""

import hashlib
import json
import time

import pytest
from cohort_strategies import NAMES, cohort_of

from med_transfer.cohorts import (
    CohortLock,
    SplitConfig,
    hashed_names,
    overlap,
    seen_before,
    split_cohort,
    warn_of_other_spellings,
)
from med_transfer.cohorts.hashed_names import hash_names, old_hash, recognise, salt_of
from med_transfer.errors import CohortError

SALT = salt_of(["image"])
PATIENTS = [f"{n:07d}" for n in range(30)]
CONFIG = SplitConfig(folds=2, test_fraction=0.2)
IMAGES = [(f"image {n}",) for n in range(30)]


@pytest.fixture(autouse=True)
def _at_full_cost(monkeypatch):
    monkeypatch.setattr(hashed_names, "_LOG2_COST", 13)


def lock_of(patients, images, *, as_before=False):
    cohort = cohort_of([(patient, NAMES[n % 3]) for n, patient in enumerate(patients)])
    return CohortLock.of(cohort, images, split_cohort(cohort, CONFIG), CONFIG, as_before=as_before)


def test_a_hash_is_scrypt_with_the_salt_that_it_tells():
    (hashed,) = hash_names(["0000001"], SALT).values()
    kind, salt, digest = hashed.split(":")
    assert (kind, salt, len(bytes.fromhex(salt))) == ("scrypt13", SALT, 16)
    made = hashlib.scrypt(b"med_transfer:0000001", salt=bytes.fromhex(SALT), n=2**13, r=8, p=1, dklen=16)
    assert digest == made.hex()


def test_the_salt_is_of_the_images_in_any_order():
    assert salt_of(["a", "b", "a"]) == salt_of(["b", "a"]) != salt_of(["a"])


def test_nobody_is_found_by_the_hash_of_before_nor_by_that_of_another_cohort():
    lock = lock_of(PATIENTS, IMAGES)
    hashes = {case.patient_hash for case in lock.cases}
    assert hashes.isdisjoint(old_hash(patient) for patient in PATIENTS)
    assert hashes.isdisjoint(case.patient_hash for case in lock_of(PATIENTS, [*IMAGES[:29], ("x",)]).cases)
    assert lock == lock_of(PATIENTS, IMAGES)  # the same cohort gives the same lock


def test_a_guess_is_no_faster_than_an_honest_comparison():
    started = time.process_time()
    assert recognise(["guess"], hash_names(PATIENTS[:1], SALT).values()) == {}
    assert time.process_time() - started > 0.004  # a computer of 2026 needs 30 ms for the guess and the hash


@pytest.mark.parametrize("as_before", [False, True])
def test_a_leak_is_found_in_both_directions_in_locks_of_now_and_of_before(as_before):
    lock = lock_of(PATIENTS, IMAGES, as_before=as_before)
    development = {case.patient_hash for case in lock.cases if case.role != "test"}
    of_development = recognise(PATIENTS, development)
    assert len(of_development) == len(development)
    seen = next(iter(of_development))
    test = next(patient for patient in PATIENTS if patient not in of_development)
    other = cohort_of([("new", "a"), (seen, "b"), (test, "c")])
    assert overlap(lock, other, [("x",), ("y",), ("z",)]) == (1,)
    others = [seen, *(f"new {n}" for n in range(29))]
    back = lock_of(others, [(f"other {n}",) for n in range(30)], as_before=not as_before)
    cohort = cohort_of([(patient, "a") for patient in PATIENTS])
    assert seen_before(cohort, [()] * 30, {case.patient_hash for case in back.cases}, ()) == (PATIENTS.index(seen),)


def test_hashes_of_several_salts_and_of_before_stand_in_one_list():
    mixed = {*hash_names(["a"], SALT).values(), *hash_names(["b"], salt_of(["other"])).values(), old_hash("c")}
    assert recognise(["a", "b", "c", "d", ""], mixed).keys() == {"a", "b", "c"}


@pytest.mark.parametrize("kind", ["scrypt30:" + "0" * 32, "scrypt13:zz", "argon2:" + "0" * 32])
def test_a_hash_that_would_cost_a_reader_dear_or_is_unknown_is_refused(kind):
    with pytest.raises(CohortError, match=r"hash of kind '.*'; expected scrypt13:<salt>. Update med-transfer"):
        recognise(["a"], [f"{kind}:{'0' * 32}"])


@pytest.mark.parametrize(
    ("learned", "asked"),
    [("PAT-1", "pat-1"), ("pat-1", "Pat-1"), ("pat 1", "PAT  1"), ("PAT-1", "pat\u20131"), ("12", "0012")],
)
def test_a_patient_spelt_otherwise_than_in_training_is_told_and_not_counted(learned, asked, caplog):
    hashes = hash_names([learned, "other"], SALT).values()
    cohort = cohort_of([("new", "a"), (asked, "b"), ("other", "a")])
    assert seen_before(cohort, [()] * 3, hashes, ()) == (2,)
    warn_of_other_spellings(cohort, hashes)
    assert (
        "the names of 1 patient differ from those of training patients only in capital letters, spaces" in caplog.text
    )
    assert f"other patients: {cohort.cases[1]}. If they are the same" in caplog.text
    assert asked not in caplog.text
    caplog.clear()
    warn_of_other_spellings(cohort.subset([0, 2]), hashes)
    assert not caplog.text


def test_a_patient_that_counts_as_seen_is_not_told_as_another(caplog):
    hashes, cohort = hash_names(["12"], SALT).values(), cohort_of([("12.0", "a"), ("new", "b")])
    assert seen_before(cohort, [()] * 2, hashes, ()) == (0,)
    warn_of_other_spellings(cohort, hashes)
    assert not caplog.text


def test_a_lock_names_no_scan(tmp_path):
    lock = lock_of(PATIENTS, IMAGES)
    lock.write(tmp_path / "lock.json")
    text = (tmp_path / "lock.json").read_text()
    assert "nii.gz" not in text
    assert "scan" not in json.loads(text)["cases"][0]
    scans = [f"s{n}.nii.gz" for n in range(30)]
    assert recognise(scans, [case.scan_hash for case in lock.cases]).keys() == set(scans)
