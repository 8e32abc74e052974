"""The file beside a growing ``predictions.csv`` that records what each row was made from, and by what.

::

    predictions.origins.jsonl   {"schema": 1, "bundle": ..., "scans": ..., "version": ..., "device": ...}
                                {"from": ..., "row": ...}       a row, and the stamps of its files, as hashes;
                                with "reason": the row's, in parts, for a page in another language;
                                with "from" empty and "tried": what the next run tries again

A row is done only if its files are unchanged since. If a kill cuts off a line, one scan is predicted again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from med_transfer.atomic import output_error, write_text
from med_transfer.errors import UsageError
from med_transfer.errors.sentence import Sentence, parts, whole

_SUFFIX = ".origins.jsonl"
RETRIED = ""  # key of a row that is never done: the scan is tried again
_SCHEMA = 1
_Line = dict[str, Any]
_CHANGED = {
    "bundle": "another bundle",
    "scans": "other scans",
    "version": "another version of this program",
    "device": "another device",  # its results differ in the last digits
}


class RowOrigins:
    """Keeps track of the rows of a table that need not be predicted again.

    Args:
        table: the table; the file of origins is beside it.
        rows: the table's lines.
        made_by: hashes of the bundle and of the scans' location, the version, and the device.

    Attributes:
        tried: keys of rows that record a failed attempt, to be repeated.

    Raises:
        UsageError: the rows were made by something else, or it is unknown by what.
        OutputError: the file cannot be written.
    """

    def __init__(self, table: Path, rows: list[bytes], made_by: Mapping[str, str]) -> None:
        self.path = table.with_suffix(_SUFFIX)
        head, *lines = _read(self.path) or [{}]
        if rows:
            _require_same(head, made_by, table)
        elif not _made_alike(head, made_by):
            lines = []
        self._head, present = {"schema": _SCHEMA, **made_by}, Counter(map(digest, rows))
        self._done: dict[str, list[_Line]] = defaultdict(list)
        for line in lines:
            if line["from"] != RETRIED and present[line["row"]]:
                present[line["row"]] -= 1
                self._done[line["from"]].append(line)
        tried = [line for line in lines if "tried" in line]  # whose rows the table no longer holds
        self.tried = frozenset(line["tried"] for line in tried)
        self._kept: list[_Line] = []
        self._write([*tried, *(line for found in self._done.values() for line in found)])

    @property
    def done(self) -> Counter[str]:
        """Digests of the rows that are not to be predicted again, unless a file has changed."""
        return Counter(line["row"] for found in self._done.values() for line in found)

    def take(self, key: str) -> bool:
        """Whether a row with this key is done; the row is used up, so that equal cases need a row each."""
        if not self._done[key]:
            return False
        self._kept.append(self._done[key].pop())
        return True

    def add(self, key: str, row: bytes, reason: str = "", *, again: bool = False) -> None:
        """Record a new row's key, its reason, and whether the next run tries the scan again. Raises OutputError."""
        line: _Line = {"from": RETRIED, "tried": key} if again else {"from": key}
        line["row"] = digest(row)
        if isinstance(reason, Sentence):
            line["reason"] = parts(reason)
        self._kept.append(line)
        try:
            with self.path.open("a", encoding="ascii") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise output_error(self.path, error) from error

    def finish(self) -> Counter[str]:
        """Drop rows that this run neither took nor added; returns the digests of the others. Raises OutputError."""
        self._write(self._kept)
        return Counter(line["row"] for line in self._kept)

    def _write(self, lines: list[_Line]) -> None:
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in (self._head, *lines)))


def on_one_line(text: str) -> str:
    """Text with whitespace normalised, as in a row."""
    return " ".join(text.split())


def digest(row: bytes) -> str:
    """Hash that identifies a row, 24 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(row).hexdigest()[:24]


def reasons_of(table: Path) -> dict[str, Any]:
    """Reasons of a table's rows as sentences that can be translated, by their text."""
    reasons = (whole(line["reason"]) for line in _read(table.with_suffix(_SUFFIX))[1:] if "reason" in line)
    return {on_one_line(str(reason)): reason for reason in reasons}


def _read(path: Path) -> list[dict]:
    """The complete lines of the file, without one cut off by a kill; empty if it is missing or something else."""
    try:
        content = path.read_bytes()
        lines = [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]
        usable = lines[:1] and lines[0]["schema"] == _SCHEMA and all({"from", "row"} <= {*line} for line in lines[1:])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return lines if usable else []


def _made_alike(head: Mapping[str, object], made_by: Mapping[str, str]) -> bool:
    return all(head.get(name) == made_by[name] for name in _CHANGED)


def _require_same(head: Mapping[str, object], made_by: Mapping[str, str], table: Path) -> None:
    different = next((words for name, words in _CHANGED.items() if head.get(name) != made_by[name]), "")
    if different:
        raise UsageError(
            f"the folder holds predictions by {different}" if head else "nothing says which bundle made these rows",
            where=table,
            expected="a new folder, or that of this run",
            action="Choose another -o, or move this file away",
        )
