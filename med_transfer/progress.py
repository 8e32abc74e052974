"""How a long job tells how far it is and what it remarks, without knowing who listens (a terminal, a log, nobody)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from med_transfer.atomic import output_error
from med_transfer.errors import printable


class Progress(Protocol):
    """Called with the stage's name, steps done, steps in all and a short note."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Told of one more step; ``done`` and ``total`` count from 0 in each stage."""
        ...


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Tells nobody."""


def named(progress: Progress, name: str) -> Progress:
    """The same listener, told ``name`` instead of the stage; ``{stage}`` in it stands for the job's own word."""

    def tell(stage: str, done: int, total: int, note: str = "") -> None:
        progress(name.format(stage=stage), done, total, note)

    return tell


def remark(log: logging.Logger, template: str, *values: object, kind: str) -> None:
    """Warn of one scan of many: a log has each, a terminal one line, with the count, for those of one ``kind``."""
    log.warning(template, *values, extra={"kind": kind})


class _PlainFormatter(logging.Formatter):
    """A log is read on a terminal, too: what commands one is written out."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@contextmanager
def log_file(path: Path, *, delay: bool = False) -> Iterator[None]:
    """Everything that med_transfer logs meanwhile also goes into a file, made with the first line if ``delay``.

    Raises:
        OutputError: the file cannot be written.
    """
    package = logging.getLogger("med_transfer")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8", delay=delay)
    except OSError as error:
        raise output_error(path, error) from error
    handler.setFormatter(_PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
    before = package.level
    package.setLevel(min(before or logging.INFO, logging.INFO))
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
        handler.close()
        package.setLevel(before)
