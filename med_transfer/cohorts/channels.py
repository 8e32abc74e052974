"""The scans of a case, where several are channels of one input."""

from __future__ import annotations

from collections.abc import Iterable

from med_transfer.cohorts.case import Case
from med_transfer.cohorts.table import Cohort
from med_transfer.errors import CohortError
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.scans import Series, Volume, read_scan


def read_scans(case: Case, config: PreprocessingConfig, series: Series | None = None) -> dict[str, Volume]:
    """Each scan of a case by the column that names it, ``scan`` first; one that the table does not name is left out.

    Args:
        config: its ``columns`` say which, its ``max_gap_mm`` how.
        series: of the column ``scan``, where it was found already.

    Raises:
        ScanError: one that the table names cannot be used; the message says which and why.
    """
    scans = {column: scan for column in config.columns if (scan := case.scan_in(column))}
    sources = {column: path for column, (path, _) in scans.items()} | ({"scan": series} if series else {})
    return {
        column: read_scan(sources[column], series_uid, max_gap_mm=config.max_gap_mm)
        for column, (_, series_uid) in scans.items()
    }


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
