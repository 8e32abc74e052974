"""A subgroup's name in the language of the page."""

from __future__ import annotations

import re

from med_transfer.page import Translator, sentence

# What metrics.grouping says of pooled values and of bands of numbers; every other name is a value of the table.
_POOLED = (sentence("not known"), sentence("other"))
_BANDS = (
    sentence("under {high}"),
    sentence("up to {high}"),
    sentence("{low} to under {high}"),
    sentence("over {low} to {high}"),
    sentence("{low} to {high}"),
    sentence("over {low}"),
    sentence("{low} or more"),
)
_NUMBER = r"-?\d[\d.e+-]*(?: mm)?"


def subgroup_name(group: str, t: Translator) -> str:
    """Of a subgroup as metrics.json names it; older runs wrote the unit last, as in ``5 or more mm``."""
    group = re.sub(r"^(\S+) or more mm$", r"\1 mm or more", group)
    for band in _BANDS:
        pattern = band.format(low=f"(?P<low>{_NUMBER})", high=f"(?P<high>{_NUMBER})")
        if found := re.fullmatch(pattern, group):
            return t(band, **found.groupdict())
    return t(group) if group in _POOLED else group or t("(empty)")
