"""The spelling of names and values that people type: look-alikes are equal."""

from __future__ import annotations

import unicodedata

_LOOK_ALIKE = {"\N{MINUS SIGN}": "-", "\N{LEFT SINGLE QUOTATION MARK}": "'", "\N{RIGHT SINGLE QUOTATION MARK}": "'"}


def normalised_text(text: str) -> str:
    """Normalise text so that look-alikes are equal: case, spaces, Unicode composition, dashes, invisible characters."""
    shown = "".join(map(_plain_sign, unicodedata.normalize("NFKC", text)))
    return " ".join(shown.split()).casefold()


def _plain_sign(sign: str) -> str:
    """A hyphen for any dash, a straight for a curly quotation mark, nothing for an invisible character."""
    kind = unicodedata.category(sign)
    return "" if kind == "Cf" else "-" if kind == "Pd" else _LOOK_ALIKE.get(sign, sign)
