"""Passes log records from one process to another."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

Remarks = list[dict[str, object]]  # log records of another process


@contextlib.contextmanager
def collected_remarks() -> Iterator[Remarks]:
    """Collect warnings and errors logged inside the block, for :func:`repeat_remarks` in another process."""
    remarks: Remarks = []
    handler, package = _Collecting(remarks), logging.getLogger("med_transfer")
    package.addHandler(handler)
    try:
        yield remarks
    finally:
        package.removeHandler(handler)


def repeat_remarks(remarks: Remarks) -> None:
    """Log the records of another process in this one."""
    for record in map(logging.makeLogRecord, remarks):
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)


class _Collecting(logging.Handler):
    def __init__(self, remarks: Remarks) -> None:
        super().__init__(logging.WARNING)
        self._remarks = remarks

    def emit(self, record: logging.LogRecord) -> None:
        """Keep template and values separate, because similar remarks are counted by their template."""
        of_record = {name: getattr(record, name) for name in ("name", "levelno", "levelname", "msg", "created")}
        values = record.args if isinstance(record.args, tuple) else ()
        plain = tuple(value if isinstance(value, int | float) else str(value) for value in values)
        self._remarks.append({**of_record, "args": plain, "kind": getattr(record, "kind", None)})
