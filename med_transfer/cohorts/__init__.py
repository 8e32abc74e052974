"""Cohort table, splits by patient, the locks that record who was seen, and scans prepared for training."""

from med_transfer.cohorts.array_cache import ArrayCache, CacheEntry, cache_key
from med_transfer.cohorts.channels import channel_columns, require_columns
from med_transfer.cohorts.hashed_names import hash_names, recognise
from med_transfer.cohorts.lock import CohortLock, labelled_scans_hash, overlap, seen_before
from med_transfer.cohorts.preparation import (
    NetworkInput,
    PreparedCohort,
    PreparedScan,
    network_input,
    preparation_key,
    prepare_cohort,
    prepare_scan,
    read_input,
    read_scans,
    region_of_case,
    without_prediction,
)
from med_transfer.cohorts.source_lock import SOURCE_LOCK_FILE, SourceLock
from med_transfer.cohorts.splits import Images, Split, SplitConfig, check_leakage, split_cohort
from med_transfer.cohorts.table import Case, Cohort
from med_transfer.cohorts.unlabelled import unlabelled_cohort

__all__ = [
    "SOURCE_LOCK_FILE",
    "ArrayCache",
    "CacheEntry",
    "Case",
    "Cohort",
    "CohortLock",
    "Images",
    "NetworkInput",
    "PreparedCohort",
    "PreparedScan",
    "SourceLock",
    "Split",
    "SplitConfig",
    "cache_key",
    "channel_columns",
    "check_leakage",
    "hash_names",
    "labelled_scans_hash",
    "network_input",
    "overlap",
    "preparation_key",
    "prepare_cohort",
    "prepare_scan",
    "read_input",
    "read_scans",
    "recognise",
    "region_of_case",
    "require_columns",
    "seen_before",
    "split_cohort",
    "unlabelled_cohort",
    "without_prediction",
]
