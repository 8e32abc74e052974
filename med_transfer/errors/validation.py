"""What pydantic found wrong with values that someone gave or a file holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


def first_problem(error: ValidationError) -> tuple[str, str]:
    """The message, and the dotted key; the key is empty if several keys contradict each other."""
    first = error.errors(include_url=False)[0]
    return first["msg"].removeprefix("Value error, "), ".".join(map(str, first["loc"]))
