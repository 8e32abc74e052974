"""``predictions_by_repeat.csv``: predictions of each scan in each repeat of a repeated cross-validation."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from med_transfer.atomic import write_bytes
from med_transfer.atomic.csv_table import csv_cell, csv_line
from med_transfer.errors import UsageError

REPEATS_FILE = "predictions_by_repeat.csv"
_LEADING_COLUMNS = ("scan", "series_uid", "repeat", "fold", "predicted")


class OfRepeat(NamedTuple):
    """Prediction of one scan in one repeat.

    Attributes:
        repeat: from 1.
        fold: in which the scan was held out, from 0.
        probabilities: in the order of the class names, in [0, 1].
    """

    scan: str
    series_uid: str
    repeat: int
    fold: int
    predicted: str
    probabilities: Sequence[float]


def write_by_repeat(path: Path, names: Sequence[str], rows: Iterable[OfRepeat]) -> None:
    """Write the file; each row's probabilities are in the order of ``names``. Raises OutputError."""
    lines = [csv_line([*_LEADING_COLUMNS, *(f"p_{name}" for name in names)])]
    lines += [csv_line([*row[:-1], *map(repr, row.probabilities)]) for row in rows]
    write_bytes(path, "".join(lines).encode("utf-8", "surrogateescape"))  # file names need not be UTF-8


def read_by_repeat(path: Path, names: Sequence[str]) -> list[OfRepeat]:
    """Read the file.

    Raises:
        UsageError: the file cannot be read, is damaged, or has other classes than ``names``.
    """
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        header, *records = [[csv_cell(cell) for cell in record] for record in csv.reader(io.StringIO(text, newline=""))]
        if header != [*_LEADING_COLUMNS, *(f"p_{name}" for name in names)]:
            raise ValueError
        return [
            OfRepeat(scan, series, int(repeat), int(fold), predicted, tuple(map(float, probabilities)))
            for scan, series, repeat, fold, predicted, *probabilities in records
        ]
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(
            "cannot be read as the repeats of this run",
            where=path,
            expected=", ".join(_LEADING_COLUMNS),
            action="Run finetune on the folder again: what was trained is kept",
        ) from error
