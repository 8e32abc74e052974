"""Between training and test: decisions are locked, and every access to the test set is recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from med_transfer.bundle import RECORD_FILE, BundleRecord, read_record
from med_transfer.bundle.decisions_lock import write_lock
from med_transfer.evaluation.test_access_log import ACCESS_LOG_FILE, Access, record_access
from med_transfer.finetuning.data_setup import RunData
from med_transfer.metrics.records.decisions import AccessCounts


def lock_run(run: Path, bundle: Path) -> BundleRecord:
    """Write ``decisions.lock.json`` from the bundle on disk, and return the bundle's record as read back from there.

    Raises:
        OutputError: it cannot be written.
    """
    write_lock(run, json.loads((bundle / RECORD_FILE).read_bytes()))
    return read_record(bundle)


@contextmanager
def record_run_access(run: Path, run_data: RunData, record: BundleRecord) -> Iterator[AccessCounts | None]:
    """Record an access to the test set around the prediction of the run's test scans.

    Yields the counts of accesses, or None if there are no test scans. Raises as :func:`record_access`.
    """
    if not run_data.split.test:
        yield None
        return
    access = Access(
        by="finetune",
        own=True,
        cohort_hash=run_data.lock.cohort_hash,
        n_scans=len(run_data.split.test),
        lock_hash=record.lock_hash,
        operating_point=record.operating_point,
    )
    with record_access(run / ACCESS_LOG_FILE, access) as counts:
        yield counts
