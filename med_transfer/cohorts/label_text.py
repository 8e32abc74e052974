"""Normalise label cells: missing values, integers written as decimals, and misspelt labels."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping

from med_transfer.predictions.spelling import normalised_text

_MISSING = {"", "nan", "na", "n/a", "#n/a", "<na>", "null"}  # what spreadsheets, pandas and R write for an empty cell
_WHOLE = re.compile(r"(\d+)\.0+")
_ROUNDED = re.compile(r"\d([.,]\d+)?E\+\d+", re.IGNORECASE)  # 1.23457E+11 of spreadsheets, 1.2345678e+16 of pandas
_RARE = 2  # rows, too few to learn from
_ALIKE = 0.8  # similarity ratio of difflib, in [0, 1]


def is_missing(cell: str) -> bool:
    """Whether the cell is empty or holds a program's marker of a missing value."""
    return cell.casefold() in _MISSING


def lacks_identifier(cell: str) -> bool:
    """Whether the cell identifies no patient: it is missing, or a long number that a program rounded."""
    return is_missing(cell) or bool(_ROUNDED.fullmatch(cell))


def label_text(cell: str) -> str:
    """Return the label, empty if missing; ``1.0`` becomes ``1``, since pandas writes columns with gaps as floats."""
    if is_missing(cell):
        return ""
    whole = _WHOLE.fullmatch(cell)
    return whole[1] if whole else cell


def closest_label(label: str, known: Collection[str]) -> str:
    """Return the known label that this one probably misspells; empty if none is similar or digits differ."""
    near = [
        name
        for name in difflib.get_close_matches(label, known, n=3, cutoff=_ALIKE)
        if name != label and _digits(name) == _digits(label) and name not in label and label not in name
    ]
    return near[0] if near else ""


def other_decimals(text: str) -> str:
    """Return ``12`` for ``12.0`` and vice versa; empty if the text is not an integer."""
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else f"{text}.0" if text.isdecimal() else ""


def spelling_key(name: str) -> str:
    """Return a key that is equal for names that look alike or write one number: ``12``, ``12.0`` and ``0012``."""
    plain = normalised_text(name)
    number = plain if plain.isdecimal() else other_decimals(plain)
    return number.lstrip("0") or "0" if number else plain


def misspelt(rows: Mapping[str, Collection[int]]) -> tuple[str, str] | None:
    """Return a rare label (one or two rows) and the frequent one it probably misspells; None if there is none.

    Args:
        rows: row numbers of each label.
    """
    for label, own in rows.items():
        frequent = [name for name, others in rows.items() if len(others) > max(_RARE, 2 * len(own))]
        if len(own) <= _RARE and (meant := closest_label(label, frequent)):
            return label, meant
    return None


def _digits(label: str) -> list[str]:
    return re.findall(r"\d+", label)
