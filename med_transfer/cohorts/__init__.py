"""Cohort table, splits by patient, the lock that records both, and scans prepared for training."""

from med_transfer.cohorts.lock import CohortLock, overlap, seen_before
from med_transfer.cohorts.preparation import (
    PreparedCohort,
    PreparedScan,
    preparation_key,
    prepare_cohort,
    prepare_scan,
    region_of_case,
    without_prediction,
)
from med_transfer.cohorts.splits import Split, SplitConfig, check_leakage, split_cohort
from med_transfer.cohorts.table import Case, Cohort

__all__ = [
    "Case",
    "Cohort",
    "CohortLock",
    "PreparedCohort",
    "PreparedScan",
    "Split",
    "SplitConfig",
    "check_leakage",
    "overlap",
    "preparation_key",
    "prepare_cohort",
    "prepare_scan",
    "region_of_case",
    "seen_before",
    "split_cohort",
    "without_prediction",
]
