"""docs/reference/errors.md: the tree of errors, each with what it means and what to do."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from med_transfer.cli.reference.table import prose, table
from med_transfer.errors import MedTransferError

_HEAD = """# Errors

Written from `med_transfer/errors/__init__.py` by `make docs`.

A message is one line: where, what was found, what was expected, what to do. From Python, `error.where`, `error.found`,
`error.expected` and `error.action` are its parts; `except ScanError` takes everything below it. A scan's error in a
batch becomes its row's `reason`, and the batch goes on (exit code 1 in the end, 3 where no scan is left).

"""


def errors_page() -> str:
    """The page."""
    rows = [
        (f"{'&nbsp;' * 4 * depth}`{kind.__name__}`", str(kind.exit_code), *map(prose, meaning_and_remedy(kind)))
        for kind, depth in _tree(MedTransferError, 0)
    ]
    return _HEAD + table(("error", "exit code", "means", "what to do"), rows) + "\n"


def meaning_and_remedy(kind: type[MedTransferError]) -> tuple[str, str]:
    """The docstring's first sentence, and its line ``Remedy:``; empty where there is none."""
    text = inspect.getdoc(kind) or ""
    remedy = text.partition("Remedy: ")[2].partition("\n\n")[0]
    return text.partition("\n\n")[0], remedy[:1].upper() + remedy[1:]


def _tree(kind: type[MedTransferError], depth: int) -> Iterator[tuple[type[MedTransferError], int]]:
    yield kind, depth
    for inner in kind.__subclasses__():
        if inner.__module__ == MedTransferError.__module__:
            yield from _tree(inner, depth + 1)
