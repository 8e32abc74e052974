"""Labels as they are meant: cells that a program left empty, numbers that it wrote as decimals, words misspelt."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection, Mapping

_MISSING = {"", "nan", "na", "n/a", "#n/a", "<na>", "null"}  # what spreadsheets, pandas and R write for an empty cell
_WHOLE = re.compile(r"(\d+)\.0+")
_ROUNDED = re.compile(r"\d([.,]\d+)?E\+\d+")  # 1.23457E+11
_RARE = 2  # rows: nothing can be learned of so few
_ALIKE = 0.8  # share of letters in common, in order


def is_missing(cell: str) -> bool:
    """Whether a program wrote the cell for one that holds nothing."""
    return cell.casefold() in _MISSING


def names_nobody(cell: str) -> bool:
    """Whether all patients with this cell would be one: it is missing, or a long number that a spreadsheet rounded."""
    return is_missing(cell) or bool(_ROUNDED.fullmatch(cell))


def label_text(cell: str) -> str:
    """The label, empty where it is missing; ``1.0`` is ``1``, as a column with gaps is written by pandas."""
    if is_missing(cell):
        return ""
    whole = _WHOLE.fullmatch(cell)
    return whole[1] if whole else cell


def probably_meant(label: str, known: Collection[str]) -> str:
    """The label that this one is a misspelling of; empty where none is near, or the two differ in a number."""
    near = [
        name
        for name in difflib.get_close_matches(label, known, n=3, cutoff=_ALIKE)
        if name != label and _digits(name) == _digits(label) and name not in label and label not in name
    ]
    return near[0] if near else ""


def other_decimals(text: str) -> str:
    """``12`` for ``12.0`` and the other way round; empty for what is no whole number."""
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else f"{text}.0" if text.isdecimal() else ""


def as_read(text: str) -> str:
    """The same for texts that a reader takes for one another: case, accents in one character or two, what is unseen."""
    shown = "".join(sign for sign in unicodedata.normalize("NFKC", text) if unicodedata.category(sign) != "Cf")
    return " ".join(shown.split()).casefold()


def misspelt(rows: Mapping[str, Collection[int]]) -> tuple[str, str] | None:
    """A label of a row or two that is nearly a frequent one, and that one; ``rows`` holds each label's."""
    for label, own in rows.items():
        frequent = [name for name, others in rows.items() if len(others) > max(_RARE, 2 * len(own))]
        if len(own) <= _RARE and (meant := probably_meant(label, frequent)):
            return label, meant
    return None


def _digits(label: str) -> list[str]:
    return re.findall(r"\d+", label)
