"""Choose the columns that divide a cohort into subgroups: those of the table, and acquisition facts."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from difflib import get_close_matches

from med_transfer.cohorts import Cohort, PreparedCohort
from med_transfer.cohorts.acquisition import NUMBER_FACTS, TEXT_FACTS
from med_transfer.errors import UsageError
from med_transfer.fusion.clinical import without_missing
from med_transfer.metrics.grouping import Grouping, group_column, is_private

log = logging.getLogger(__name__)

# Every column makes the multiple-testing correction stricter for all; other facts can be requested by name.
_FACTS_BY_DEFAULT = (
    *("manufacturer", "scanner_model", "kernel"),
    *("slice_thickness_mm", "slice_spacing_mm", "pixel_spacing_mm"),
)


def check_subgroups(cohort: Cohort, columns: Sequence[str] | None) -> None:
    """Check, before any scan is read, that the subgroup columns exist.

    Raises:
        UsageError: a name is neither a column of the table nor an acquisition fact, or the columns are a single text.
    """
    if isinstance(columns, str):  # a sequence of its letters
        raise UsageError(f"found {columns!r}", where="subgroups", expected=f"a sequence of columns, as [{columns!r}]")
    available = [*_table_columns(cohort), *TEXT_FACTS, *NUMBER_FACTS]
    for column in columns or ():
        if column not in available:
            near = get_close_matches(column, available, n=1)
            raise UsageError(
                f"subgroup column {column!r} is not in the table",
                where=cohort.path or "",
                expected=f"one of {', '.join(available)}",
                action=f"Did you mean {near[0]}?" if near else "",
            )


def cohort_subgroups(
    prepared: PreparedCohort, columns: Sequence[str] | None = None, channels: Collection[str] = ()
) -> list[Grouping]:
    """Return subgroups by the named columns, or by every suitable one.

    Args:
        prepared: the scans.
        columns: names of table columns or acquisition facts. Named columns are always returned, but without subgroups
            if their values identify people. None takes every suitable column: not those that suggest names, identifiers
            or dates, and not those that do not divide the scans. A column that divides them like an earlier one is only
            listed with that one.
        channels: columns that name scans, which are never suitable.
    """
    names = (
        columns
        if columns is not None
        else [
            *(name for name in _table_columns(prepared.cohort) if name not in channels and not is_private(name)),
            *(name for name in _FACTS_BY_DEFAULT if name not in _table_columns(prepared.cohort)),
        ]
    )
    private = [name for name in _table_columns(prepared.cohort) if is_private(name)] if columns is None else []
    if private:
        log.info("no subgroups by %s: by name such a column identifies people", ", ".join(private))
    groupings = [group_column(name, _texts(prepared, name), prepared.cohort.patients) for name in dict.fromkeys(names)]
    if columns is not None:
        return groupings
    for grouping in groupings:
        if grouping.identifies:
            log.info("no subgroups by %s: %s", grouping.column, grouping.unsuitable)
    return _distinct([grouping for grouping in groupings if not grouping.unsuitable])


def _distinct(groupings: Sequence[Grouping]) -> list[Grouping]:
    """Keep one of the columns that divide the scans alike, so that the correction does not count them twice."""
    first: dict[tuple[int, ...], Grouping] = {}
    for grouping in groupings:
        earlier = first.setdefault(grouping.partition, grouping)
        if earlier is not grouping:
            first[grouping.partition] = replace(earlier, same_as=(*earlier.same_as, grouping.column))
    return list(first.values())


def _table_columns(cohort: Cohort) -> list[str]:
    return sorted({name for case in cohort.cases for name in case.columns})


def _texts(prepared: PreparedCohort, column: str) -> list[str]:
    """Text of each scan in a column, empty if missing; the table takes precedence over acquisition facts."""
    if column in _table_columns(prepared.cohort):
        texts = [case.columns.get(column, "") for case in prepared.cohort.cases]
    else:
        texts = [str(scan.acquisition.get(column, "")) for scan in prepared.scans]
    return [text.strip() for text in without_missing(texts)]
