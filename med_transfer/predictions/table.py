"""``predictions.csv``: one row a scan, written as it goes, resumed after a kill."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

from med_transfer.atomic import output_error, write_bytes
from med_transfer.atomic.csv_table import csv_cell, csv_line
from med_transfer.errors import UsageError
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.origins import digest, on_one_line, reasons_of
from med_transfer.predictions.record import Prediction, Status

_SETS = "prediction_set"
_BEFORE = ("scan", "patient", "study_uid", "series_uid", "status", "reason", "predicted", _SETS)
_WHY = "abstained_because"
_AFTER = ("abstained", _WHY, "novelty", "seconds")
_PROBABILITY, _FUSED = "p_", "fused_p_"
_STATUSES = get_args(Status)


class PredictionTable:
    """Rows of a growing ``predictions.csv``.

    Opening an existing file resumes it: a last line that a kill cut off is dropped; what of the rest still holds is
    told by :mod:`med_transfer.predictions.origins`. ``finish`` sorts the rows, so that a resumed run ends with the file
    of an uninterrupted one (but for ``seconds``). With ``fused`` each class has a second column, ``fused_p_<class>``.
    A cell that a spreadsheet would take for a formula is written with an apostrophe before it, and read without.

    Raises:
        OutputError: the file cannot be written. What was written before stays valid.
        UsageError: the file there is not a prediction table of these classes.
    """

    def __init__(self, path: Path, labels: Labels, *, fused: bool = False) -> None:
        self.path = Path(path)
        self._names, self._fused = labels.names, fused
        predictions = _read(self.path, self._names, fused) if self.path.exists() else []
        self._rows = [_row(prediction, self._names, fused) for prediction in predictions]
        _write(self.path, _columns(self._names, fused), self._rows)
        try:
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise output_error(self.path, error) from error

    @property
    def lines(self) -> list[bytes]:
        """The rows as they stand in the file."""
        return [_line(row) for row in self._rows]

    def append(self, prediction: Prediction) -> bytes:
        """Write one row, be sure that it is on the disk, and give it. Raises OutputError, UsageError (other class)."""
        row = _row(prediction, self._names, self._fused)
        line = _line(row)
        size = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):
                raise OSError(28, "No space left on device")
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(size)  # no half line for the next row to join
            raise output_error(self.path, error) from error
        self._rows.append(row)
        return line

    def finish(self, kept: Counter[str] | None = None) -> None:
        """Sort the rows by scan and series, and close; ``kept``: those of these digests alone. Raises OutputError."""
        self.close()
        rows = sorted(self._rows, key=_place)
        if kept is not None:
            rows = [row for row in rows if _taken(kept, digest(_line(row)))]
        self._rows = rows
        _write(self.path, _columns(self._names, self._fused), rows)

    def close(self) -> None:
        """Close the file; the rows stay in the order in which they came."""
        self._file.close()

    def __enter__(self) -> PredictionTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def load(path: Path) -> list[Prediction]:
        """The rows of a table, of whatever classes; a reason is a sentence where the file beside the table has parts.

        Raises:
            UsageError: a file that is not a whole table.
        """
        header, *cells = _whole_cells(Path(path))
        return _with_sentences(_predictions(Path(path), header, cells), Path(path))


def merge_tables(tables: Sequence[Path]) -> tuple[bytes, list[Prediction]]:
    """The rows of several tables as one, as it is written, in the order of a finished one; and table by table.

    Raises:
        UsageError: one is no whole table, or of other classes than the first.
    """
    headers, cells, rows = [], [], []
    for table in tables:
        header, *own = _whole_cells(table)
        headers.append(header)
        cells += own
        rows += _with_sentences(_predictions(table, header, own), table)
    for table, header in zip(tables, headers, strict=True):
        if header != headers[0]:
            raise UsageError(f"columns {', '.join(header)}", where=table, expected=", ".join(headers[0]))
    return _encode([headers[0], *sorted(cells, key=_place)]), rows


def read_cells(table: Path) -> list[list[str]]:
    """Header and rows, cell by cell. Raises UsageError for a file that is not a whole table."""
    return _with_sets(_records(table))


def _place(row: Sequence[str]) -> tuple[str, str, Sequence[str]]:
    return row[0], row[3], row[:-1]


def why_abstained(predictions: Sequence[Prediction]) -> dict[str, int]:
    """Code of a reason to abstain to the number of predictions that have it, the most frequent first."""
    codes = Counter(code for one in predictions for code in one.abstained_because.split(";") if code)
    return dict(codes.most_common())


def _taken(kept: Counter[str], row: str) -> bool:
    kept[row] -= 1
    return kept[row] >= 0


def _columns(names: Sequence[str], fused: bool) -> list[str]:
    prefixes = (_PROBABILITY, _FUSED) if fused else (_PROBABILITY,)
    return [*_BEFORE, *(prefix + name for prefix in prefixes for name in names), *_AFTER]


def _row(prediction: Prediction, names: Sequence[str], fused: bool) -> list[str]:
    unknown = sorted({*prediction.probabilities, *prediction.fused} - set(names))
    if unknown:
        raise UsageError(f"a prediction of class {unknown[0]!r}", where=prediction.scan, expected=", ".join(names))
    probabilities = [prediction.probabilities.get(name) for name in names]
    probabilities += [prediction.fused.get(name) for name in names] if fused else []
    return [
        *(getattr(prediction, column) for column in _BEFORE[:5]),
        on_one_line(prediction.reason),
        prediction.predicted,
        prediction.prediction_set,
        *("" if p is None else repr(float(p)) for p in probabilities),
        "true" if prediction.abstained else "false",
        prediction.abstained_because,
        "" if prediction.novelty is None else repr(float(prediction.novelty)),
        f"{prediction.seconds:.3f}",
    ]


def _encode(rows: Sequence[Sequence[str]]) -> bytes:
    return b"".join(map(_line, rows))


def _line(row: Sequence[str]) -> bytes:
    return csv_line(row).encode("utf-8", "surrogateescape")  # a file name need not be valid UTF-8


def _write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    write_bytes(path, _encode([columns, *rows]))


def _read(path: Path, names: Sequence[str], fused: bool) -> list[Prediction]:
    """The rows of a table of these classes."""
    header, *rows = _whole_cells(path)
    if header != (columns := _columns(names, fused)):
        raise _other_columns(path, header, ", ".join(columns))
    return _predictions(path, header, rows)


def _whole_cells(path: Path) -> list[list[str]]:
    """Header and rows, with the columns of today."""
    return _with_reasons(_with_sets(_records(path)))


def _predictions(path: Path, header: list[str], rows: Sequence[list[str]]) -> list[Prediction]:
    """Of whatever classes, fused or not, the header tells of."""
    of_classes = header[len(_BEFORE) : -len(_AFTER)]
    fused = any(column.startswith(_FUSED) for column in of_classes)
    plain = of_classes[: len(of_classes) // 2] if fused else of_classes
    names = [column.removeprefix(_PROBABILITY) for column in plain]
    if header != _columns(names, fused):
        raise _other_columns(path, header, "scan, patient ...")
    return [_prediction(header, row, names, fused, path, line) for line, row in enumerate(rows, start=2)]


def _other_columns(path: Path, header: Sequence[str], expected: str) -> UsageError:
    return UsageError(
        f"columns {', '.join(header) or '(none)'}",
        where=path,
        expected=expected,
        action="Choose another output folder, or move this file away",
    )


def _with_sentences(rows: list[Prediction], table: Path) -> list[Prediction]:
    """The rows with each reason as a sentence, where the file beside the table has its parts."""
    reasons = reasons_of(table)
    return [replace(row, reason=reasons[row.reason]) if row.reason in reasons else row for row in rows]


def _with_sets(records: list[list[str]]) -> list[list[str]]:
    """A table from before there were prediction sets gets an empty column of them."""
    place = _BEFORE.index(_SETS)
    if records[0][:place] == list(_BEFORE[:place]) and records[0][place : place + 1] != [_SETS]:
        cells = (_SETS, *("" for _ in records[1:]))
        return [[*row[:place], cell, *row[place:]] for row, cell in zip(records, cells, strict=True)]
    return records


def _with_reasons(records: list[list[str]]) -> list[list[str]]:
    """A table from before abstention told its reasons gets an empty column of them."""
    if _WHY in records[0] or records[0][-3:] != ["abstained", "novelty", "seconds"]:
        return records
    cells = (_WHY, *("" for _ in records[1:]))
    return [[*row[:-2], cell, *row[-2:]] for row, cell in zip(records, cells, strict=True)]


def _records(path: Path) -> list[list[str]]:
    """Header and whole rows; a last row without its line's end, or with too few values, was cut off by a kill."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(error.strerror or "cannot be read", where=path, expected="a predictions.csv") from error
    whole = content[: content.rfind(b"\n") + 1].decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    try:
        records = [list(map(csv_cell, record)) for record in csv.reader(io.StringIO(whole, newline=""))]
    except csv.Error as error:
        raise UsageError(f"is not CSV: {error}", where=path) from error
    if len(records) > 1 and len(records[-1]) < len(records[0]):
        records.pop()
    return records or [[]]


def _prediction(
    columns: list[str], row: list[str], names: Sequence[str], fused: bool, path: Path, line: int
) -> Prediction:
    try:
        cells: dict[str, Any] = dict(zip(columns, row, strict=True))
        if cells["status"] not in _STATUSES or cells["abstained"] not in ("true", "false"):
            raise ValueError
        return Prediction(
            **{column: cells[column] for column in _BEFORE},
            probabilities=_by_class(cells, _PROBABILITY, names),
            fused=_by_class(cells, _FUSED, names) if fused else {},
            abstained=cells["abstained"] == "true",
            abstained_because=cells[_WHY],
            novelty=float(cells["novelty"]) if cells["novelty"] else None,
            seconds=float(cells["seconds"]),
        )
    except ValueError:
        raise UsageError(f"row {line} is damaged", where=path, action="Move this file away and run again") from None


def _by_class(cells: dict[str, Any], prefix: str, names: Sequence[str]) -> dict[str, float]:
    return {name: float(cells[prefix + name]) for name in names if cells[prefix + name]}
