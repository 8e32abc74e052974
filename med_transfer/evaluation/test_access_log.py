"""``test_openings.jsonl``: every time a network read test scans, under which decisions. Only ever appended to.

A test set answers one question without bias; each further answer that is acted upon costs some of that. So it is
counted how often it was asked (Dwork et al. 2015, Science 349:636). A line tells the time, the decisions' hash, the
test set's hash and the operating point; no patient.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from med_transfer.atomic import output_error
from med_transfer.errors import UsageError
from med_transfer.metrics.records.decisions import AccessCounts
from med_transfer.model.operating_point import OperatingPoint

ACCESS_LOG_FILE = "test_openings.jsonl"


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Access(_Line):
    """A network is about to read test scans.

    Attributes:
        by: the command.
        own: whether patients of the run's own test set are among them; None where the bundle does not tell.
        cohort_hash: of the test set; of the whole cohort's lock in a run.
        n_scans: that it reads.
        lock_hash: of the decisions; empty for a bundle from before there were locks.
        operating_point: which decides how often a test set was opened with another one.
    """

    by: Literal["finetune", "evaluate"]
    own: bool | None
    cohort_hash: str
    n_scans: int
    lock_hash: str
    operating_point: OperatingPoint

    def is_of(self, other: Access) -> bool:
        """Whether both are of one test set: the run's own, or the same scans."""
        return (self.own and other.own) or self.cohort_hash == other.cohort_hash


class _Opened(_Line):
    event: Literal["opened"] = "opened"
    id: str
    at: str
    opening: Access


class _Reported(_Line):
    """The results of an opening lie on the disk."""

    event: Literal["reported"] = "reported"
    id: str
    at: str


@contextmanager
def record_access(file: Path, opening: Access, elsewhere: Path | None = None) -> Iterator[AccessCounts]:
    """Record an opening before the block reads a test scan, and after it that there are results.

    An opening without results, of the same scans under the same decisions, was interrupted: it is gone on with and not
    counted twice.

    Args:
        file: to append to.
        opening: what is about to be read.
        elsewhere: another file of openings, which cannot be written to and is counted all the same.

    Raises:
        UsageError: the file was edited or damaged.
        OutputError: it cannot be written; nothing has been read then.
    """
    lines = _read(file)
    interrupted = _interrupted(lines, opening)
    key = interrupted or uuid.uuid4().hex[:12]
    if not interrupted:
        _append(file, _Opened(id=key, at=_now(), opening=opening))
    known = [*(_read(elsewhere) if elsewhere else ()), *lines]
    earlier = [line.opening for line in known if isinstance(line, _Opened) and line.id != interrupted]
    yield count(opening, earlier)
    _append(file, _Reported(id=key, at=_now()))


def count(opening: Access, earlier: Sequence[Access]) -> AccessCounts:
    """What an opening is to those before it."""
    same = [one for one in earlier if one.is_of(opening)]
    return AccessCounts(
        n=len(same) + 1,
        own=opening.own,
        n_other_decisions=sum(one.lock_hash != opening.lock_hash for one in same),
        n_other_operating_points=sum(one.operating_point != opening.operating_point for one in same),
        lock_hash=opening.lock_hash,
        cohort_hash=opening.cohort_hash,
    )


def _interrupted(lines: Sequence[_Opened | _Reported], opening: Access) -> str:
    """Id of the last opening of all when it is this one and has no results; else empty."""
    if lines and isinstance(lines[-1], _Opened) and lines[-1].opening == opening:
        return lines[-1].id
    return ""


def _read(file: Path) -> list[_Opened | _Reported]:
    """A last line without its end was cut off by a kill, before anything was read."""
    if not file.exists():
        return []
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(
            error.strerror or "cannot be read", where=file, expected="the openings of a test set"
        ) from error
    whole = content[: content.rfind(b"\n") + 1].splitlines()
    return [_parse(line, file, number) for number, line in enumerate(whole, start=1)]


def _parse(line: bytes, file: Path, number: int) -> _Opened | _Reported:
    try:
        kind = _Reported if json.loads(line)["event"] == "reported" else _Opened
        return kind.model_validate_json(line)
    except (ValueError, KeyError, TypeError, ValidationError):
        raise UsageError(
            f"line {number} is damaged",
            where=file,
            expected="lines as they were written",
            action="Restore the file: it tells how often the test set was opened",
        ) from None


def _append(file: Path, line: _Opened | _Reported) -> None:
    """One whole line, on the disk before anything else happens."""
    text = line.model_dump_json().encode() + b"\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _drop_half_line(file)
        with file.open("ab", buffering=0) as stream:
            if stream.write(text) != len(text):
                raise OSError(28, "No space left on device")
            os.fsync(stream.fileno())
    except OSError as error:
        raise output_error(file, error) from error


def _drop_half_line(file: Path) -> None:
    content = file.read_bytes() if file.exists() else b""
    if not content.endswith(b"\n") and content:
        with file.open("r+b") as stream:
            stream.truncate(content.rfind(b"\n") + 1)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
