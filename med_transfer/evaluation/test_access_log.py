"""``test_access_log.jsonl``: an append-only log of every time a network read test scans, and with which decisions.

A test set gives an unbiased answer once; each further answer that is acted upon adds bias. Accesses are therefore
counted (Dwork et al. 2015, Science 349:636). A line holds the time, the hashes of decisions and test set, and the
operating point, but no patient data.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from med_transfer.atomic import output_error
from med_transfer.errors import UsageError
from med_transfer.metrics.records.decisions import AccessCounts
from med_transfer.model.operating_point import OperatingPoint

log = logging.getLogger(__name__)

ACCESS_LOG_FILE = "test_access_log.jsonl"
_OLD_LOG_FILE = "test_openings.jsonl"  # of older versions; counted, but never written


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Access(_Line):
    """An access of a network to test scans.

    Attributes:
        by: the command.
        own: whether patients or scans of the run's own test set are among them, be it a single one; None if unknown.
        all_own: whether there are no others; lines of earlier versions do not say.
        cohort_hash: hash of the test set, or in a run that of the whole cohort's lock.
        n_scans: number of scans read.
        lock_hash: hash of the decisions; empty for a bundle older than locks.
        operating_point: the operating point, by which accesses with another one are counted.
    """

    by: Literal["finetune", "evaluate"]
    own: bool | None
    all_own: bool = True
    cohort_hash: str
    n_scans: int
    lock_hash: str
    operating_point: OperatingPoint

    def is_of(self, other: Access) -> bool:
        """Whether both accesses are to the same test set: the run's own, or the same scans."""
        return (self.own and other.own) or self.cohort_hash == other.cohort_hash


class _Accessed(_Line):
    event: Annotated[Literal["accessed"], BeforeValidator(lambda name: "accessed" if name == "opened" else name)]
    id: str
    at: str
    access: Access = Field(validation_alias=AliasChoices("access", "opening"))


class _Reported(_Line):
    """The results of an access were written."""

    event: Literal["reported"] = "reported"
    id: str
    at: str


@contextmanager
def record_access(file: Path, access: Access, elsewhere: Path | None = None) -> Iterator[AccessCounts]:
    """Record an access before the block reads a test scan, and its results after the block.

    If the last access was to the same scans with the same decisions and has no results, it was interrupted: it is
    continued and not counted twice.

    Args:
        file: log to append to. A log beside it under the name of older versions is counted too.
        access: the access to record.
        elsewhere: another log that is counted but cannot be written.

    Raises:
        UsageError: the log was edited or damaged.
        OutputError: the log cannot be written; no test scan has been read then.
    """
    lines = _read(file)
    interrupted = _interrupted(lines, access)
    key = interrupted or uuid.uuid4().hex[:12]
    if not interrupted:
        _append(file, _Accessed(event="accessed", id=key, at=_now(), access=access))
    logged = [*(_read(elsewhere) if elsewhere else ()), *lines]
    earlier = [line.access for line in logged if isinstance(line, _Accessed) and line.id != interrupted]
    yield count(access, earlier)
    _append(file, _Reported(id=key, at=_now()))


def count(access: Access, earlier: Sequence[Access]) -> AccessCounts:
    """Return how often a test set was read, from an access and the earlier ones."""
    same = [before for before in earlier if before.is_of(access)]
    return AccessCounts(
        n=len(same) + 1,
        own=access.own,
        all_own=access.all_own,
        n_other_decisions=sum(before.lock_hash != access.lock_hash for before in same),
        n_other_operating_points=sum(before.operating_point != access.operating_point for before in same),
        lock_hash=access.lock_hash,
        cohort_hash=access.cohort_hash,
    )


def _interrupted(lines: Sequence[_Accessed | _Reported], access: Access) -> str:
    """Id of the last logged access if it equals this one and has no results; else empty."""
    if lines and isinstance(lines[-1], _Accessed) and lines[-1].access == access:
        return lines[-1].id
    return ""


def _read(file: Path) -> list[_Accessed | _Reported]:
    """Lines of a log, preceded by those of a log under the old name."""
    old = file.with_name(_OLD_LOG_FILE)
    if old.exists():
        log.warning("%s is now called %s: its lines are counted, new ones go there", old, file.name)
    return [*_read_file(old), *_read_file(file)]


def _read_file(file: Path) -> list[_Accessed | _Reported]:
    """Lines of one file; an unterminated last line is ignored: writing was interrupted before any scan was read."""
    if not file.exists():
        return []
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(
            error.strerror or "cannot be read", where=file, expected="the accesses of a test set"
        ) from error
    whole = content[: content.rfind(b"\n") + 1].splitlines()
    return [_parse(line, file, number) for number, line in enumerate(whole, start=1)]


def _parse(line: bytes, file: Path, number: int) -> _Accessed | _Reported:
    try:
        kind = _Reported if json.loads(line)["event"] == "reported" else _Accessed
        return kind.model_validate_json(line)
    except (ValueError, KeyError, TypeError, ValidationError):
        raise UsageError(
            f"line {number} is damaged",
            where=file,
            expected="lines as they were written",
            action="Restore the file: it records how often the test set was read",
        ) from None


def _append(file: Path, line: _Accessed | _Reported) -> None:
    """Append one whole line and sync it to disk."""
    text = line.model_dump_json().encode() + b"\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _remove_incomplete_line(file)
        with file.open("ab", buffering=0) as stream:
            if stream.write(text) != len(text):
                raise OSError(28, "No space left on device")
            os.fsync(stream.fileno())
    except OSError as error:
        raise output_error(file, error) from error


def _remove_incomplete_line(file: Path) -> None:
    content = file.read_bytes() if file.exists() else b""
    if not content.endswith(b"\n") and content:
        with file.open("r+b") as stream:
            stream.truncate(content.rfind(b"\n") + 1)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
