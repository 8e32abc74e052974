"""How a long job tells how far it is, without knowing who listens (a terminal, a notebook, nobody)."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with the stage's name, steps done, steps in all and a short note."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None: ...


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Tells nobody."""
