"""Log format of ``serve`` on stderr: text, or one JSON object per line. No level contains patient data.

This package's own messages contain none. Messages of libraries and of exceptions may quote an image's header, so that
only the library's name is written, and of an exception only its class and the place in the code.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType

from med_transfer.errors import printable

_OWN = "med_transfer"


class _Anonymous(logging.Formatter):
    def formatException(self, ei) -> str:  # noqa: N802  the parent's name
        """Format the exception chain without any messages."""
        return "\n".join(_places(ei[1]))


class TextLines(_Anonymous):
    """``2026-12-02T07:05:11Z WARNING: study 0123456789abcdef: ScanAborted``; the time is UTC."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the parent's name
        """Format our own message; for a library, write only its name."""
        text = super().formatMessage(record) if _is_ours(record) else f"{record.levelname}: {record.name}"
        return f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%SZ} {printable(text)}"


class JsonLines(_Anonymous):
    """JSON: ``time`` (UTC), ``level``, ``code`` (one per message of the program), ``study``, ``where``, ``text``."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one line."""
        ours = _is_ours(record)
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "code": _code(record) if ours else "library",
            "study": getattr(record, "study", None),
            "where": f"{record.name}:{record.lineno}",
        }
        if ours:
            line["text"] = record.getMessage()
        if record.exc_info and record.exc_info[1]:
            line["raised"] = _places(record.exc_info[1])
        return json.dumps(line, ensure_ascii=True)


def set_up_log(form: str, level: str, quiet: bool = False) -> None:
    """Send all logging and warnings to stderr from now on, as ``text`` or ``json``.

    Args:
        form: ``text`` or ``json``.
        level: lowest level of this package's own messages that is written.
        quiet: write errors only.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    handler.setLevel(logging.ERROR if quiet else logging.NOTSET)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(_OWN).setLevel(level.upper())
    logging.captureWarnings(True)


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name == _OWN or record.name.startswith(f"{_OWN}.")


def _code(record: logging.LogRecord) -> str:
    """Code of a message, from its template before values are inserted: ``study_unexpected``."""
    without_values = re.sub(r"%\S", " ", str(record.msg).lower())
    return "_".join(re.findall(r"[a-z]+", without_values))


def _places(error: BaseException | None) -> list[str]:
    """Class and code lines of an exception and of its causes, the first cause first."""
    places: list[str] = []
    while error is not None:
        places.insert(0, f"{type(error).__name__} at {_lines(error.__traceback__)}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return places


def _lines(where: TracebackType | None) -> str:
    return " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(traceback.extract_tb(where)))
