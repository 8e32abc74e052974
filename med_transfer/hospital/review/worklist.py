"""The worklist: studies filtered, searched, sorted, and paginated.

Rows contain patient names. Neither these nor search terms may appear in a URL, a log or an error. Therefore a page is
continued by the id of a study, and a search is sent in the body of a request.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, NamedTuple

from med_transfer.hospital.queue import Queue, State
from med_transfer.hospital.queue.schema import escape_like

Sort = Literal["received", "patient_name", "study_date", "state", "top_class", "top_probability"]
Judged = Literal["", "yes", "no", "agree", "disagree"]
_TOTALS = 64  # filters whose counts are cached while the queue does not change
_JUDGED = {"yes": "judged != ''", "no": "judged = ''", "agree": "judged = 'agree'", "disagree": "judged = 'disagree'"}


class Line(NamedTuple):
    """One study. Its ``repr``, which could be logged, names nobody.

    Attributes:
        study: the node's id of the study.
        received: when its first image arrived, seconds since 1970.
        state, reason: state in the queue, and why.
        answer: ``ok``, ``abstained``, ``rejected`` or ``failed``; empty: none yet.
        top_class, top_probability: the call and its highest probability; empty and -1 without a call.
        because: codes of reasons, joined by ``;``.
        judged: ``agree``, ``disagree``, or empty.
        other_calls: number of the study's further series for which something else was called.
    """

    study: str
    received: float
    state: State
    reason: str
    patient_name: str
    patient_id: str
    accession: str
    study_date: str
    modality: str
    description: str
    answer: str
    top_class: str
    top_probability: float
    because: str
    judged: str
    other_calls: int

    def __repr__(self) -> str:
        return f"Line({self.study!r})"


_OTHER_CALLS = "(SELECT coalesce(sum(series), 0) FROM call WHERE call.study = worklist.study AND name != top_class)"
_COLUMNS = f"{', '.join(Line._fields[:-1])}, {_OTHER_CALLS}"


@dataclass(frozen=True)
class WorklistQuery:
    """A query of the worklist.

    Attributes:
        state, top_class, judged: filters; empty: all. ``top_class`` was called for any of the study's series.
        since, until: received from ``since`` on and before ``until``, seconds since 1970; None: no limit.
        search: words, each a part of patient name, patient id, accession number, description or study id, in any case;
            must not appear in a URL.
        sort, descending: column and direction; ties are sorted by study id.
        after: id of the last study of the previous page; empty: first page.
        size: maximum number of lines on a page.
    """

    state: State | Literal[""] = ""
    top_class: str = ""
    judged: Judged = ""
    since: float | None = None
    until: float | None = None
    search: str = field(default="", repr=False)
    sort: Sort = "received"
    descending: bool = True
    after: str = ""
    size: int = 50


@dataclass(frozen=True)
class Page:
    """One page; ``following`` is ``after`` for the next page, empty on the last; ``total`` counts the lines of all."""

    lines: tuple[Line, ...] = field(repr=False)
    following: str
    total: int


def page(queue: Queue, query: WorklistQuery) -> Page:
    """The requested page; the first one if the study in ``after`` does not exist."""
    conditions, values = _conditions(query)
    with queue.reading() as database:
        if not query.search.isascii():
            database.create_function("without_case", 1, _without_case, deterministic=True)
        total = _total(queue, _version(database), _where(conditions), tuple(values))
        key = _key(database, query)
        if key is not None:
            conditions.append(f"({query.sort}, study) {'<' if query.descending else '>'} (?, ?)")
            values += [key, query.after]
        direction = "DESC" if query.descending else "ASC"
        rows = database.execute(
            f"SELECT {_COLUMNS} FROM worklist {_where(conditions)} "
            f"ORDER BY {query.sort} {direction}, study {direction} LIMIT ?",
            (*values, query.size + 1),
        ).fetchall()
    lines = tuple(map(Line._make, rows[: query.size]))
    return Page(lines, lines[-1].study if len(rows) > query.size else "", total)


def line(queue: Queue, study: str) -> Line | None:
    """Line of one study; None if there is no such study."""
    with queue.reading() as database:
        row = database.execute(f"SELECT {_COLUMNS} FROM worklist WHERE study = ?", (study,)).fetchone()
    return Line(*row) if row else None


def counts(queue: Queue) -> dict[str, int]:
    """Number of studies in each state."""
    with queue.reading() as database:
        return _by_state(queue, _version(database))


def classes(queue: Queue) -> list[str]:
    """All calls so far, sorted."""
    with queue.reading() as database:
        return _called(queue, _version(database))


def _version(database: sqlite3.Connection) -> int:
    """Number that changes when any other connection changes the queue. Source: SQLite, PRAGMA data_version."""
    (version,) = database.execute("PRAGMA data_version").fetchone()
    return version


@lru_cache(_TOTALS)
def _total(queue: Queue, _: int, where: str, values: tuple[object, ...]) -> int:
    with queue.reading() as database:
        (total,) = database.execute(f"SELECT count(*) FROM worklist {where}", values).fetchone()
    return total


@lru_cache(2)
def _by_state(queue: Queue, _: int) -> dict[str, int]:
    with queue.reading() as database:
        return dict(database.execute("SELECT state, count(*) FROM worklist GROUP BY state ORDER BY state"))


@lru_cache(2)
def _called(queue: Queue, _: int) -> list[str]:
    with queue.reading() as database:
        rows = database.execute("SELECT DISTINCT name FROM call WHERE name != '' ORDER BY name")
        return [row[0] for row in rows]


def next_study(queue: Queue, query: WorklistQuery, study: str) -> str:
    """The next study in the same list; empty if there is none."""
    lines = page(queue, replace(query, after=study, size=1)).lines
    return lines[0].study if lines else ""


def _conditions(query: WorklistQuery) -> tuple[list[str], list[object]]:
    """SQL conditions of the filters that are set, and the values of their placeholders."""
    filters: list[tuple[str, object]] = [
        ("state = ?", query.state or None),
        ("study IN (SELECT study FROM call WHERE name = ?)", query.top_class or None),
        ("received >= ?", query.since),
        ("received < ?", query.until),
        *(_contains(word) for word in re.split(r"[\s,]+", query.search) if word),
    ]
    wanted = [(condition, value) for condition, value in filters if value is not None]
    judged = [_JUDGED[query.judged]] if query.judged else []
    return [condition for condition, _ in wanted] + judged, [value for _, value in wanted]


def _contains(word: str) -> tuple[str, str]:
    """Condition and value for a word of a search. SQLite ignores the case of ASCII letters only, but that fast."""
    if word.isascii():
        return "searched LIKE ? ESCAPE '\\'", f"%{escape_like(word)}%"
    return "instr(without_case(searched), ?)", _without_case(word)


def _without_case(text: str) -> str:
    """Text to search in: without case, without the signs between the parts of a name, and each letter one character."""
    return unicodedata.normalize("NFKC", text).casefold().replace("^", "")


def _where(conditions: list[str]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


def _key(database: sqlite3.Connection, query: WorklistQuery) -> object | None:
    if not query.after:
        return None
    row = database.execute(f"SELECT {query.sort} FROM worklist WHERE study = ?", (query.after,)).fetchone()
    return row[0] if row else None


def person(name: str) -> str:
    """Format a DICOM person name: family name, given names, then the ideographic form. Source: PS3.5 6.2.1."""
    alphabetic, _, others = name.partition("=")
    family, _, rest = alphabetic.partition("^")
    parts = [part for part in (family.strip(), " ".join(rest.replace("^", " ").split())) if part]
    return " ".join((", ".join(parts), others.partition("=")[0].replace("^", ""))).strip()


def day(date: str) -> str:
    """Format a DICOM date as 2026-01-31; anything else is returned unchanged."""
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" if len(date) == 8 and date.isdigit() else date
