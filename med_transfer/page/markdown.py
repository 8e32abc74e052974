"""Markdown with text of others in it: names of classes, columns and runs are shown as they are and do nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

_SPECIAL = re.compile(r"[\\`*\[\]|]")


def as_text(text: str) -> str:
    """Text on one line that no reader of Markdown takes for HTML, a link, an image, code or the end of a cell."""
    return _SPECIAL.sub(r"\\\g<0>", escape(" ".join(text.split()), quote=False))


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head; the cells are text."""
    head, *body = [[as_text(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body))
