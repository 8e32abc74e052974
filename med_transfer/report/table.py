"""A table of the report: shown on the page and written as CSV, from the same cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from med_transfer.atomic.csv_table import csv_line
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.page import Translator
from med_transfer.report.numbers import (
    decimal,
    decimal_interval,
    percent,
    percent_interval,
    ratio,
    ratio_interval,
    signed,
    signed_interval,
    whole,
)

Value = str | int | float | None
_SHOWN = {
    "percent": (percent, percent_interval),
    "decimal": (decimal, decimal_interval),
    "ratio": (ratio, ratio_interval),
    "signed": (signed, signed_interval),
}


@dataclass(frozen=True)
class Cell:
    """What a reader sees and what a program gets.

    Attributes:
        text: on the page.
        notes: smaller lines beneath it.
        values: for the CSV, unrounded: suffix of the column's name to value; the empty suffix is the value itself.
            Empty: the text is the value.
        undefined: there is no value; ``notes`` say why.
        share: in [0, 1], how dark the cell is; None: not shaded.
        strong: stands out.
        bar: lower limit, value and upper limit, in [0, 1], drawn beneath the text; None: not drawn.
    """

    text: str
    notes: tuple[str, ...] = ()
    values: Mapping[str, Value] = field(default_factory=dict)
    undefined: bool = False
    share: float | None = None
    strong: bool = False
    bar: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Table:
    """Columns and rows; the first cell of a row is its heading.

    Attributes:
        name: of the CSV file, unique in its section: letters, digits and hyphens.
        caption: what the rows are and what the figures hold for.
        columns: headings, the first one over the headings of rows.
        rows: as long as ``columns``; text and whole numbers are cells too.
        over: a heading over all columns but the first; empty: none.
        kind: ``numbers`` are set to the right, ``text`` to the left, ``matrix`` is shaded by ``Cell.share``,
            ``answer`` is the one that a reader came for.
        total: the last row sums up the others.
    """

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str | int]]
    over: str = ""
    kind: Literal["numbers", "text", "matrix", "answer"] = "numbers"
    total: bool = False

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, every cell a Cell."""
        return [[cell if isinstance(cell, Cell) else _plain(cell) for cell in row] for row in self.rows]

    def csv(self) -> str:
        """The table with a header; a column of estimates becomes one for the value and one for each limit."""
        rows = self.cells
        suffixes = [
            list(dict.fromkeys(suffix for row in rows for suffix in row[column].values)) or [""]
            for column in range(len(self.columns))
        ]
        head = (
            f"{name}, {suffix}" if suffix else name
            for name, wanted in zip(self.columns, suffixes, strict=True)
            for suffix in wanted
        )
        body = (
            [cell.values.get(suffix, "") for cell, wanted in zip(row, suffixes, strict=True) for suffix in wanted]
            for row in rows
        )
        return "".join(map(csv_line, (head, *body)))


def _plain(cell: str | int) -> Cell:
    return Cell(str(cell), values={"": cell})


def number(value: float | None, written: Callable[[float], str]) -> Cell:
    """A number as ``written``, in the CSV unrounded; a dash where there is none."""
    return Cell("–" if value is None else written(value), values={"": value})


def estimated(estimate: Estimate, kind: Literal["percent", "decimal", "ratio", "signed"], t: Translator) -> Cell:
    """An estimate with its interval beneath, and in the CSV unrounded in columns of its own.

    Rates are shown in percent and written in [0, 1]; ``signed`` is for differences.
    """
    show, show_interval = _SHOWN[kind]
    values: dict[str, Value] = {"": estimate.value}
    values |= _limits(estimate.ci95, t("95 % CI, low"), t("95 % CI, high"))
    if estimate.value is None:
        return Cell(t("undefined"), (t.translated(estimate.reason),), values, undefined=True)
    notes = [show_interval(estimate.ci95, t) or t.translated(estimate.reason) or t("no interval")]
    if estimate.ci95_cluster:
        notes.append(f"† {show_interval(estimate.ci95_cluster, t)}")
        names = t("95 % CI over patients, low"), t("95 % CI over patients, high")
        values |= _limits(estimate.ci95_cluster, *names)
    return Cell(show(estimate), tuple(notes), values)


def barred(estimate: Estimate, t: Translator, *notes: str) -> Cell:
    """A rate in percent as :func:`estimated` shows it, the interval that holds drawn, and more lines beneath."""
    cell = estimated(estimate, "percent", t)
    limits = estimate.interval  # over patients where that is the one that holds
    bar = (limits[0], estimate.value, limits[1]) if limits and estimate.value is not None else None
    return replace(cell, notes=(*cell.notes, *notes), bar=bar)


def without_absent(
    mean: Estimate, absent: Sequence[str], sensitivity: Mapping[str, Estimate], t: Translator
) -> list[str]:
    """A note on the classes that balanced accuracy is without, or none.

    Records of older versions do not name them, but those without a case have no ``sensitivity``.
    """
    absent = [name for name, estimate in sensitivity.items() if name in absent or estimate.value is None]
    return [t("without {names}", names=t(", ").join(absent))] if absent and mean.value is not None else []


def with_share(n: int, of: int, t: Translator) -> Cell:
    """A count with its share of a whole beneath; the share is undefined where the whole is empty."""
    share = n / of if of else None
    shown = "–" if share is None else whole(share)
    return Cell(str(n), (shown,), {"": n, t("share"): share}, share=share)


def _limits(interval: tuple[float, float] | None, low: str, high: str) -> dict[str, Value]:
    """Limits of an interval by the names that they are given."""
    return dict(zip((low, high), interval or (None, None), strict=True))
