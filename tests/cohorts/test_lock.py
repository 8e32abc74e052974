import json

import pytest
from cohort_strategies import NAMES, cohort_of, cohorts
from hypothesis import given, settings
from hypothesis import strategies as st

from med_transfer.cohorts import CohortLock, SplitConfig, labelled_scans_hash, overlap, recognise, split_cohort
from med_transfer.errors import CohortError, OutputError
from med_transfer.predictions.labels import Labels

CONFIG = SplitConfig(folds=2, test_fraction=0.2)


def lock_of(cohort, config=CONFIG):
    hashes = [(f"hash of {case.scan}",) for case in cohort.cases]
    return CohortLock.of(cohort, hashes, split_cohort(cohort, config), config)


def scan_of(case):
    return case.content_hash.removeprefix("hash of ")


@pytest.fixture
def cohort():
    return cohort_of([(f"p{n}", NAMES[n % 3]) for n in range(30)])


@settings(max_examples=6)
@given(cohorts(), st.randoms(use_true_random=False))
def test_hash_does_not_depend_on_the_order_of_rows(cohort, random):
    order = list(range(len(cohort)))
    random.shuffle(order)
    assert lock_of(cohort) == lock_of(cohort.subset(order))


def test_hash_depends_on_everything_else(cohort):
    relabelled = cohort_of([(f"p{n}", NAMES[(n + (n < 6)) % 3]) for n in range(30)])
    renamed = cohort_of([(f"q{n}", NAMES[n % 3]) for n in range(30)])
    another = SplitConfig(folds=2, seed=1, test_fraction=0.2)
    locks = [lock_of(cohort), lock_of(cohort, another), lock_of(relabelled), lock_of(renamed)]
    locks.append(CohortLock.of(cohort, [()] * 30, split_cohort(cohort, CONFIG), CONFIG))
    assert len({lock.cohort_hash for lock in locks}) == len(locks)


def test_scans_and_labels_alone_make_the_hash_of_a_test_set(cohort):
    def hashed(cohort, images="image", order=range(30)):
        return labelled_scans_hash(cohort.subset(order), [(f"{images} {number}",) for number in order])

    renamed = cohort_of([(f"q{n}", NAMES[n % 3]) for n in range(30)])
    assert hashed(cohort) == hashed(renamed) == hashed(cohort, order=range(29, -1, -1))
    relabelled = cohort_of([(f"p{n}", NAMES[(n + (n < 6)) % 3]) for n in range(30)])
    others = (hashed(cohort), hashed(relabelled), hashed(cohort, "other"), hashed(cohort, order=range(29)))
    assert len(set(others)) == 4


def test_file_holds_what_it_says_and_reads_back(cohort, tmp_path):
    lock = lock_of(cohort)
    lock.write(tmp_path / "cohort.lock.json")
    assert CohortLock.read(tmp_path / "cohort.lock.json") == lock
    content = json.loads((tmp_path / "cohort.lock.json").read_text())
    assert (content["schema"], content["classes"], content["multilabel"]) == (1, list(NAMES), False)
    first = next(case for case in content["cases"] if case["content_hash"] == "hash of s0.nii.gz")
    assert recognise(["p0", "p1"], [first["patient_hash"]]).keys() == {"p0"}
    assert recognise(["s0.nii.gz", "s1.nii.gz"], [first["scan_hash"]]).keys() == {"s0.nii.gz"}
    assert first["label"] == "a"
    assert '"p0"' not in json.dumps(content)


@pytest.mark.parametrize(
    ("kind", "roles"), [("kfold", {"test", "fold-0", "fold-1"}), ("holdout", {"test", "fold-0", "train"})]
)
def test_roles_follow_the_split(cohort, kind, roles):
    config = SplitConfig(kind=kind, folds=2, test_fraction=0.2)
    split, lock = split_cohort(cohort, config), lock_of(cohort, config)
    by_scan = {scan_of(case): case.role for case in lock.cases}
    assert set(by_scan.values()) == roles
    assert {scan for scan, role in by_scan.items() if role == "test"} == {cohort.cases[i].scan for i in split.test}
    assert {scan for scan, role in by_scan.items() if role == "fold-0"} == {
        cohort.cases[i].scan for i in split.validation[0]
    }


def test_findings_are_recorded_in_order():
    cohort = cohort_of([(f"p{n}", frozenset(NAMES[: n % 4])) for n in range(40)], Labels(NAMES, multilabel=True))
    labels = {scan_of(case): case.label for case in lock_of(cohort).cases}
    assert (labels["s0.nii.gz"], labels["s3.nii.gz"]) == ((), ("a", "b", "c"))


def test_overlap_finds_patients_and_images_of_development(cohort):
    lock = lock_of(cohort)
    of_test = {scan_of(case) for case in lock.cases if case.role == "test"}
    test = [n for n, case in enumerate(cohort.cases) if case.scan in of_test]
    seen = next(n for n in range(30) if n not in test)
    other = cohort_of([(f"p{seen}", "a"), ("new", "a"), ("new2", "b"), (f"p{test[0]}", "c"), ("", "c")])
    hashes = [("x",), (f"hash of s{seen}.nii.gz",), ("y",), (f"hash of s{test[0]}.nii.gz",), ()]
    assert overlap(lock, other, hashes) == (0, 1)
    own = [(f"hash of {case.scan}",) for case in cohort.cases]
    assert overlap(lock, cohort, own) == tuple(n for n in range(30) if n not in test)


@pytest.mark.parametrize(("learned", "asked"), [("{}", "{}.0"), ("{}.0", "{}")])
def test_a_patient_whose_number_pandas_wrote_with_decimals_is_known_again(learned, asked):
    lock = lock_of(cohort_of([(learned.format(n), NAMES[n % 3]) for n in range(30)]))
    new = cohort_of([(asked.format(n), "a") for n in range(40)])
    test = {scan_of(case) for case in lock.cases if case.role == "test"}
    expected = tuple(n for n in range(30) if f"s{n}.nii.gz" not in test)
    assert overlap(lock, new, [()] * 40) == expected


def test_edited_lock_is_refused(cohort, tmp_path):
    path = tmp_path / "cohort.lock.json"
    lock_of(cohort).write(path)
    path.write_text(path.read_text().replace('"role": "fold-0"', '"role": "test"', 1))
    with pytest.raises(CohortError, match=r"cohort\.lock\.json: does not match its own hash"):
        CohortLock.read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", r"is not a cohort lock \(\d+ problems\)"), ("{", "is not a cohort lock"), (None, "No such file")],
)
def test_what_is_no_lock_is_refused(tmp_path, content, message):
    path = tmp_path / "cohort.lock.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(
        CohortError,
        match=rf"cohort\.lock\.json: .*{message}.*expected what the run has written there. Restore it from a copy",
    ):
        CohortLock.read(path)


def test_lock_of_another_version_is_refused(cohort, tmp_path):
    lock_of(cohort).model_copy(update={"schema_version": 2}).write(tmp_path / "lock.json")
    with pytest.raises(CohortError, match=r"lock\.json: schema 2; expected schema 1"):
        CohortLock.read(tmp_path / "lock.json")


def test_unwritable_lock(cohort, tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        lock_of(cohort).write(tmp_path)
