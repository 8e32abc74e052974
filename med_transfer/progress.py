"""How a long job tells how far it is, without knowing who listens (a terminal, a notebook, nobody)."""

from __future__ import annotations

from typing import Protocol


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
