"""``predictions.csv``: one row per scan, written incrementally, resumed after a kill."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
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
_LEADING_COLUMNS = ("scan", "patient", "study_uid", "series_uid", "status", "reason", "predicted", _SETS)
_ABSTENTION_REASON = "abstained_because"
_TRAILING_COLUMNS = ("abstained", _ABSTENTION_REASON, "novelty", "seconds")
_PROBABILITY, _FUSED = "p_", "fused_p_"
_STATUSES = get_args(Status)


class PredictionTable:
    """Rows of a growing ``predictions.csv``.

    Opening an existing file resumes it: a last line cut off by a kill is dropped, and
    :mod:`med_transfer.predictions.origins` decides which rows are still valid. ``finish`` sorts the rows, so that a
    resumed run gives the same file as an uninterrupted one, except for ``seconds``. With ``fused``, each class has a
    second column, ``fused_p_<class>``. A cell that a spreadsheet would run as a formula is written with a leading
    apostrophe, which is removed on reading.

    Raises:
        OutputError: the file cannot be written; rows written before stay valid.
        UsageError: the existing file is not a prediction table of these classes.
    """

    def __init__(self, path: Path, labels: Labels, *, fused: bool = False) -> None:
        self.path = Path(path)
        self._names, self._fused = labels.names, fused
        predictions = _read(self.path, self._names, fused) if self.path.exists() else []
        self._rows = [_row(prediction, self._names, fused) for prediction in predictions]
        self._rewrite()

    def _rewrite(self) -> None:
        """Replace the file by the rows, and open it to append to. Raises OutputError."""
        _write(self.path, _columns(self._names, self._fused), self._rows)
        try:
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise output_error(self.path, error) from error

    @property
    def lines(self) -> list[bytes]:
        """The rows as encoded in the file."""
        return [_line(row) for row in self._rows]

    def keep(self, rows: Counter[str]) -> None:
        """Remove all rows but those with these digests; the file is replaced as a whole. Raises OutputError."""
        kept = [row for row in self._rows if _take(rows, digest(_line(row)))]
        if len(kept) < len(self._rows):
            self.close()
            self._rows = kept
            self._rewrite()

    def append(self, prediction: Prediction) -> bytes:
        """Write one row, flush it to disk, and return its line. Raises OutputError, UsageError (unknown class)."""
        row = _row(prediction, self._names, self._fused)
        line = _line(row)
        size = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):
                raise OSError(28, "No space left on device")
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(size)  # remove the partial line, which the next row would continue
            raise output_error(self.path, error) from error
        self._rows.append(row)
        return line

    def finish(self, kept: Counter[str] | None = None) -> None:
        """Sort the rows by scan and series, and close; ``kept`` limits them to these digests. Raises OutputError."""
        self.close()
        rows = sorted(self._rows, key=_place)
        if kept is not None:
            rows = [row for row in rows if _take(kept, digest(_line(row)))]
        self._rows = rows
        _write(self.path, _columns(self._names, self._fused), rows)

    def close(self) -> None:
        """Close the file; the rows stay in the order of writing."""
        self._file.close()

    def __enter__(self) -> PredictionTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def load(path: Path) -> list[Prediction]:
        """Load the rows of a table with any classes; reasons are sentences if the file of origins has their parts.

        Raises:
            UsageError: not a complete table.
        """
        header, *cells = _whole_cells(Path(path))
        return _with_sentences(_predictions(Path(path), header, cells), Path(path))


def merge_tables(tables: Mapping[Path, bytes]) -> tuple[bytes, list[Prediction]]:
    """Merge tables, given by path and content: the encoded table, in the order of a finished one; and the predictions,
    table by table.

    Raises:
        UsageError: one is not a complete table, or has other columns than the first.
    """
    headers, cells, rows = [], [], []
    for table, content in tables.items():
        header, *own = _whole_cells(table, content)
        headers.append(header)
        cells += own
        rows += _with_sentences(_predictions(table, header, own), table)
    for table, header in zip(tables, headers, strict=True):
        if header != headers[0]:
            raise UsageError(f"columns {', '.join(header)}", where=table, expected=", ".join(headers[0]))
    return _encode([headers[0], *sorted(cells, key=_place)]), rows


def read_cells(table: Path) -> list[list[str]]:
    """Header and rows as cells. Raises UsageError if the file cannot be read as CSV."""
    return _with_sets(_records(table))


def _place(row: Sequence[str]) -> tuple[str, str, Sequence[str]]:
    return row[0], row[3], row[:-1]


def why_abstained(predictions: Sequence[Prediction]) -> dict[str, int]:
    """Number of predictions by code of the reason to abstain, the most frequent first."""
    codes = Counter(code for one in predictions for code in one.abstained_because.split(";") if code)
    return dict(codes.most_common())


def _take(kept: Counter[str], row: str) -> bool:
    kept[row] -= 1
    return kept[row] >= 0


def _columns(names: Sequence[str], fused: bool) -> list[str]:
    prefixes = (_PROBABILITY, _FUSED) if fused else (_PROBABILITY,)
    return [*_LEADING_COLUMNS, *(prefix + name for prefix in prefixes for name in names), *_TRAILING_COLUMNS]


def _row(prediction: Prediction, names: Sequence[str], fused: bool) -> list[str]:
    unknown = sorted({*prediction.probabilities, *prediction.fused} - set(names))
    if unknown:
        raise UsageError(f"a prediction of class {unknown[0]!r}", where=prediction.scan, expected=", ".join(names))
    probabilities = [prediction.probabilities.get(name) for name in names]
    probabilities += [prediction.fused.get(name) for name in names] if fused else []
    return [
        *(getattr(prediction, column) for column in _LEADING_COLUMNS[:5]),
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
    return csv_line(row).encode("utf-8", "surrogateescape")  # file names need not be UTF-8


def _write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    write_bytes(path, _encode([columns, *rows]))


def _read(path: Path, names: Sequence[str], fused: bool) -> list[Prediction]:
    """The rows of a table of these classes."""
    header, *rows = _whole_cells(path)
    if header != (columns := _columns(names, fused)):
        raise _other_columns(path, header, ", ".join(columns))
    return _predictions(path, header, rows)


def _whole_cells(path: Path, content: bytes | None = None) -> list[list[str]]:
    """Header and rows, with columns added that older tables lack; ``content`` if the file has been read."""
    return _with_reasons(_with_sets(_records(path, content)))


def _predictions(path: Path, header: list[str], rows: Sequence[list[str]]) -> list[Prediction]:
    """Predictions with the classes that the header names, fused or not."""
    of_classes = header[len(_LEADING_COLUMNS) : -len(_TRAILING_COLUMNS)]
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
    """Replace reasons by sentences if the file of origins has their parts."""
    reasons = reasons_of(table)
    return [replace(row, reason=reasons[row.reason]) if row.reason in reasons else row for row in rows]


def _with_sets(records: list[list[str]]) -> list[list[str]]:
    """Add an empty column to a table written before prediction sets existed."""
    place = _LEADING_COLUMNS.index(_SETS)
    if records[0][:place] == list(_LEADING_COLUMNS[:place]) and records[0][place : place + 1] != [_SETS]:
        cells = (_SETS, *("" for _ in records[1:]))
        return [[*row[:place], cell, *row[place:]] for row, cell in zip(records, cells, strict=True)]
    return records


def _with_reasons(records: list[list[str]]) -> list[list[str]]:
    """Add an empty column to a table written before abstentions had reasons."""
    if _ABSTENTION_REASON in records[0] or records[0][-3:] != ["abstained", "novelty", "seconds"]:
        return records
    cells = (_ABSTENTION_REASON, *("" for _ in records[1:]))
    return [[*row[:-2], cell, *row[-2:]] for row, cell in zip(records, cells, strict=True)]


def _records(path: Path, content: bytes | None = None) -> list[list[str]]:
    """Header and complete rows, without a last one that was cut off by a kill (no line end, or too few values)."""
    try:
        content = path.read_bytes() if content is None else content
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
            **{column: cells[column] for column in _LEADING_COLUMNS},
            probabilities=_by_class(cells, _PROBABILITY, names),
            fused=_by_class(cells, _FUSED, names) if fused else {},
            abstained=cells["abstained"] == "true",
            abstained_because=cells[_ABSTENTION_REASON],
            novelty=float(cells["novelty"]) if cells["novelty"] else None,
            seconds=float(cells["seconds"]),
        )
    except ValueError:
        raise UsageError(f"row {line} is damaged", where=path, action="Move this file away and run again") from None


def _by_class(cells: dict[str, Any], prefix: str, names: Sequence[str]) -> dict[str, float]:
    return {name: float(cells[prefix + name]) for name in names if cells[prefix + name]}
