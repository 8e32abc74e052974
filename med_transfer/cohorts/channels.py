"""The table's columns that name the scans of a case, where several are channels of one input."""

from __future__ import annotations

from collections.abc import Iterable

from med_transfer.cohorts.table import Cohort
from med_transfer.errors import CohortError
from med_transfer.preprocessing import PreprocessingConfig


def channel_columns(config: PreprocessingConfig) -> set[str]:
    """Columns of the table that name scans and series, and so divide no cohort into subgroups."""
    return {name for column in config.columns for name in (column, f"series_uid{column.removeprefix('scan')}")}


def require_columns(cohort: Cohort, columns: Iterable[str]) -> None:
    """Refuse a table that names no scan at all for a channel: a misspelt column, or scans given without a table.

    Raises:
        CohortError: says which columns.
    """
    missing = [column for column in columns if not any(case.scan_in(column) for case in cohort.cases)]
    if missing:
        raise CohortError(
            f"no scan in column {', '.join(missing)}",
            where=cohort.path or "",
            expected=f"columns {', '.join(columns)}, one for each scan of a case (input.channels)",
        )
