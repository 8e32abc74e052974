"""summary.html: the outcome of a batch at a glance, and which scans to look at first."""

from __future__ import annotations

import base64
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from med_transfer.atomic import write_text
from med_transfer.errors.sentence import Sentence
from med_transfer.page import Language, Translator, environment
from med_transfer.page.language import translator
from med_transfer.predictions.formats import TABLE_FORMATS, TableFormat, write_table_as
from med_transfer.predictions.record import Prediction
from med_transfer.predictions.table import PredictionTable

if TYPE_CHECKING:
    from med_transfer.inference.contact_sheet import ShownScan

SUMMARY_FILE = "summary.html"
_TEMPLATE = "summary.html.jinja"
_HERE = Path(__file__).parent
_OUT_OF_DISTRIBUTION, _MAX_SHOWN = 0.95, 50  # novelty above which a scan is suspicious; maximum shown


def write_beside(
    table: Path,
    formats: Sequence[TableFormat] = (),
    language: Language = "en",
    shown: Sequence[ShownScan] = (),
    rows: Sequence[Prediction] | None = None,
) -> None:
    """Write the summary of a finished table beside it, and the table in further formats.

    Args:
        table: predictions.csv.
        formats: further formats to write the table in, beside those that it is there in already.
        language: language of the summary.
        shown: scans of the contact sheet.
        rows: the table's rows; None: read them from the table.

    Raises:
        OutputError: a file cannot be written.
        MissingExtra: the package for a format is not installed.
    """
    rows = PredictionTable.load(table) if rows is None else rows
    write_summary(table.with_name(SUMMARY_FILE), rows, language, shown)
    for kind in TABLE_FORMATS:
        if kind in formats or table.with_suffix(f".{kind}").exists():  # never older than the table
            write_table_as(kind, table)


def write_summary(
    path: Path, rows: Sequence[Prediction], language: Language = "en", shown: Sequence[ShownScan] = ()
) -> Path:
    """Write a page that summarises a table's rows and shows the scans to look at first. Raises OutputError."""
    statuses, t = Counter(row.status for row in rows), translator(language).reading(_HERE / "summary")
    counts = {status: statuses[status] for status in ("ok", "rejected", "failed")}
    words = {"rejected": t("rejected"), "failed": t("failed")}
    page = environment(_HERE, t=t)
    page.filters["base64"] = lambda picture: base64.b64encode(picture).decode("ascii")
    text = page.get_template(_TEMPLATE).render(
        counts=counts | {"total": len(rows), "abstained": sum(row.abstained for row in rows)},
        called=Counter(row.predicted or t("none") for row in rows if row.status == "ok").most_common(),
        reasons=[
            (words[status], n, t.translated(reason), scan)
            for status, n, reason, scan in _reasons([row for row in rows if row.status != "ok"])
        ],
        remarks=[(n, t.translated(reason), scan) for _, n, reason, scan in _reasons(_remarked(rows))],
        suspicious=[_suspicious_cells(row, t) for row in _suspicious(rows)],
        shown=shown,
    )
    write_text(path, text)
    return path


def _reasons(rows: Sequence[Prediction]) -> list[tuple[str, int, str, str]]:
    """Groups of scans with the same reason up to its numbers, most frequent first.

    Each is (status, number of scans, reason of the first scan without its name, name of the first scan).
    """
    alike: dict[tuple[str, str], list[Prediction]] = defaultdict(list)
    for row in rows:
        alike[row.status, re.sub(r"\d[\d.]*", "0", _without_name(row))].append(row)
    groups = sorted(alike.values(), key=lambda group: (-len(group), group[0].scan))
    return [(group[0].status, len(group), _without_name(group[0]), group[0].scan) for group in groups]


def _remarked(rows: Sequence[Prediction]) -> list[Prediction]:
    """Predicted scans with a reason that no other part of the page gives: those that abstain are suspicious ones."""
    return [row for row in rows if row.status == "ok" and row.reason and not row.abstained]


def _without_name(row: Prediction) -> str:
    reason = row.reason
    if isinstance(reason, Sentence) and reason.values.get("where") == row.scan:
        return reason.values["problem"]
    return reason.removeprefix(f"{row.scan}: ")


def _suspicious(rows: Sequence[Prediction]) -> list[Prediction]:
    suspicious = [
        row for row in rows if row.abstained or (row.novelty is not None and row.novelty > _OUT_OF_DISTRIBUTION)
    ]
    return sorted(suspicious, key=lambda row: (-(row.novelty or 0.0), row.scan))[:_MAX_SHOWN]


def _suspicious_cells(row: Prediction, t: Translator) -> tuple[str, ...]:
    highest = max(row.probabilities.values(), default=None)
    return (
        row.scan,
        "" if row.novelty is None else f"{row.novelty:.3f}",
        t("yes") if row.abstained else t("no"),
        row.predicted,
        "" if highest is None else f"{highest:.3f}",
    )
