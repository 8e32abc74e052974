from .array_cache import ArrayCache, CacheEntry, cache_key
from .channels import channel_columns, require_columns
from .hashed_names import hash_names, recognise
from .lock import CohortLock, labelled_scans_hash, overlap, seen_before, warn_of_other_spellings
from .preparation import (
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
from .source_lock import SOURCE_LOCK_FILE, SourceLock
from .splits import Images, Split, SplitConfig, check_leakage, split_cohort, without_test_rows
from .table import Case, Cohort
from .unlabelled import unlabelled_cohort

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
    "warn_of_other_spellings",
    "without_prediction",
    "without_test_rows",
]
