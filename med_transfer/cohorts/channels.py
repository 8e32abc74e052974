"""The table columns that name the scans of a case, where several scans form the channels of one input."""

from __future__ import annotations

from collections.abc import Iterable

from med_transfer.cohorts.table import Cohort
from med_transfer.errors import CohortError
from med_transfer.preprocessing import PreprocessingConfig


def channel_columns(config: PreprocessingConfig) -> set[str]:
    """Return the columns that name scans and series, which therefore define no subgroups."""
    return {name for column in config.columns for name in (column, f"series_uid{column.removeprefix('scan')}")}


def require_columns(cohort: Cohort, columns: Iterable[str]) -> None:
    """Check that each channel's column names at least one scan.

    A column may lack scans because it is misspelt, or because the scans were given without a table.

    Raises:
        CohortError: a column names no scan; the message lists the columns.
    """
    missing = [column for column in columns if not any(case.scan_in(column) for case in cohort.cases)]
    if missing:
        raise CohortError(
            f"no scan in column {', '.join(missing)}",
            where=cohort.path or "",
            expected=f"columns {', '.join(columns)}, one for each scan of a case (input.channels)",
        )
