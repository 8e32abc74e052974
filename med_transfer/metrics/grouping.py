"""Subgroups from a column of the cohort table or an acquisition fact: by value, or by bands of numbers."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors.numbers import is_number
from med_transfer.errors.sentence import Sentence

SMALLEST_SUBGROUP = 10  # patients; smaller subgroups are uninformative and may identify a person
UNKNOWN, OTHER = "not known", "other"
_MAX_VALUES = 8
_FEW_NUMBERS = 5  # a column with no more distinct numbers holds codes or steps, not a scale
# Up to 1.5 mm: thin sections (MacMahon et al. 2017, Radiology 284:228). Up to 2.5 mm: lung screening (ACR-STR practice
# parameter). Up to 5 mm: measurable disease (Eisenhauer et al. 2009, RECIST 1.1, Eur J Cancer 45:228).
_THICKNESS_LIMITS_MM = (1.5, 2.5, 5.0)
_PRIVATE = {"id", "uid", "mrn", "accession", "date", "birth", "dob", "birthdate", "birthday", "ssn", "initials"}
_PRIVATE |= {"surname", "forename", "firstname", "lastname", "fullname", "patientname", "address", "street", "phone"}
_PRIVATE |= {"telephone", "email", "mail", "postcode", "zip", "zipcode"}
# With one of these, "name" is a person's; alone it may be a scanner's.
_PERSON_WORDS = {"patient", "subject", "first", "last", "family", "given", "full", "middle"}
_PRIVATE_CHINESE = re.compile("姓名|病歷|病历|身分證|身份证|身份證|健保|生日|出生|電話|电话|地址|日期")
# Values are identifying if at least this many belong to one patient each, and cover this share of the patients.
# Two patients, one of each sex, are not identified by it; nor are six patients by five scanners.
_FEWEST_IDENTIFIED, _IDENTIFIED_SHARE = 3, 0.8

BY_VALUE = Sentence("by value")


@dataclass(frozen=True)
class Grouping:
    """Subgroups of a column.

    Attributes:
        column: name of the table column or fact.
        of_scan: subgroup of each scan; ``UNKNOWN`` where the column is empty.
        order: the subgroups, in reading order.
        how: how values became subgroups, in words.
        unsuitable: why there are no subgroups; empty if there are.
        identifies: whether the reason is that the values identify patients.
        same_as: columns that divide the scans in the same way.
    """

    column: str
    of_scan: tuple[str, ...]
    order: tuple[str, ...]
    how: str = BY_VALUE
    unsuitable: str = ""
    identifies: bool = False
    same_as: tuple[str, ...] = ()

    @classmethod
    def of(cls, column: str, values: Sequence[object]) -> Grouping:
        """Make each distinct value a subgroup."""
        texts = tuple(str(value) for value in values)
        return cls(column, texts, tuple(sorted(set(texts))))

    @property
    def partition(self) -> tuple[int, ...]:
        """Subgroup number of each scan, equal for two columns that divide the scans in the same way."""
        numbers: dict[str, int] = {}
        return tuple(numbers.setdefault(value, len(numbers)) for value in self.of_scan)


def group_column(column: str, texts: Sequence[str], patients: Sequence[str]) -> Grouping:
    """Divide scans into subgroups by a column.

    Numbers are cut into bands: age into decades, slice thickness at clinical limits, others at round numbers near the
    terciles. Neighbouring bands are merged until each has enough patients. Other values stay as they are, and those of
    few patients are pooled. A column whose values identify nearly all patients gets no subgroups, even on request.
    Truth and predictions are not used.

    Args:
        column: column name, by which age and slice thickness are recognised.
        texts: value of each scan, empty if missing.
        patients: patient of each scan.
    """
    values = {text for text in texts if text}
    if len(values) < 2:
        reason = Sentence("no scan has a value")
        if values:
            same = Sentence("every scan has the same value")
            reason = same if all(texts) else Sentence("every scan that has a value has the same")
        return Grouping(column, tuple(texts), (), unsuitable=reason)
    numbers = np.array([_number(text) for text in texts])
    if all(np.isfinite(number) for number, text in zip(numbers, texts, strict=True) if text):
        if len(set(numbers[np.isfinite(numbers)])) > _FEW_NUMBERS:
            return _bands(column, numbers, patients)
        texts = ["" if math.isnan(number) else f"{number:.15g}" for number in numbers]
    return _by_value(column, texts, patients)


def is_private(column: str) -> bool:
    """Whether the column name suggests a person's name, identifier or date; such columns are used only on request."""
    words = _words(column)
    a_name = words == {"name"} or ("name" in words and bool(words & _PERSON_WORDS))
    return bool(_PRIVATE & words) or a_name or bool(_PRIVATE_CHINESE.search(column))


def _words(column: str) -> set[str]:
    return set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).lower()))


def _number(text: str) -> float:
    return float(text) if is_number(text) else math.nan


def _by_value(column: str, texts: Sequence[str], patients: Sequence[str]) -> Grouping:
    having = defaultdict(set)
    for text, patient in zip(texts, patients, strict=True):
        having[text].add(patient)
    values = sorted(having.keys() - {""}, key=lambda text: (-len(having[text]), text))
    identifying = _identifying(values, having)
    if identifying:
        why = Sentence("{n} of its values are of one patient each: they identify people", n=identifying)
        return Grouping(column, ("",) * len(texts), (), unsuitable=why, identifies=True)
    frequent = [text for text in values if len(having[text]) >= SMALLEST_SUBGROUP][:_MAX_VALUES]
    rest = len(values) - len(frequent)
    if len(frequent) < 2 and len(values) > _MAX_VALUES:
        why = Sentence("{n} different values, almost all of few patients", n=len(values))
        return Grouping(column, tuple(texts), (), unsuitable=why)
    if rest < 2 or not frequent:  # nothing to pool, or nothing but rare values
        frequent, rest = values, 0
    order = sorted(frequent, key=lambda text: (_number(text) if math.isfinite(_number(text)) else 0.0, text))
    names = tuple(text if text in frequent else OTHER if text else UNKNOWN for text in texts)
    how = BY_VALUE
    if rest:
        how = Sentence("by value; {n} values of few patients are pooled as {other!r}", n=rest, other=Sentence("other"))
    return Grouping(column, names, (*order, *_present(names, OTHER, UNKNOWN, but=frequent)), how)


def _identifying(values: Sequence[str], having: Mapping[str, set[str]]) -> int:
    """Number of values with a single patient, if they cover nearly all patients (names, notes, codes); else 0."""
    of_one = [text for text in values if len(having[text]) == 1 and not math.isfinite(_number(text))]
    known = set().union(*(having[text] for text in of_one))
    everyone = set().union(*(having[text] for text in values))
    return len(of_one) if len(of_one) >= _FEWEST_IDENTIFIED and len(known) >= _IDENTIFIED_SHARE * len(everyone) else 0


def _present(names: Sequence[str], *pooled: str, but: Sequence[str] = ()) -> list[str]:
    return [name for name in pooled if name in names and name not in but]


def _bands(column: str, numbers: NDArray[np.float64], patients: Sequence[str]) -> Grouping:
    words, unit = _words(column), " mm" if column.endswith("_mm") else ""
    finite = numbers[np.isfinite(numbers)]
    upto = {"slice", "thickness"} <= words
    if upto:
        limits, what = list(_THICKNESS_LIMITS_MM), Sentence("cut at limits of clinical use")
    elif "age" in words:
        limits, what = [float(limit) for limit in range(10, 120, 10)], Sentence("decades")
    else:
        limits, what = _round_terciles(finite), Sentence("cut near the terciles")
    joined = _joined(limits, numbers, patients, upto)
    if not joined:  # too few patients for two bands: show halves, without measures
        joined, what = [_round_between(*np.quantile(finite, [0.4, 0.6]))], Sentence("cut near the median")
    texts, bands = _texts(joined, unit, upto=upto, years="age" in words), _band_of(numbers, joined, upto)
    names = tuple(UNKNOWN if band < 0 else texts[band] for band in bands)
    order = [text for text in texts if text in names]
    how = Sentence("{what}; bands joined until each has {n} patients", what=what, n=SMALLEST_SUBGROUP)
    return Grouping(column, names, (*order, *_present(names, UNKNOWN)), how)


def _band_of(numbers: NDArray[np.float64], limits: Sequence[float], upto: bool) -> NDArray[np.intp]:
    """Band number of each scan, -1 if missing. With ``upto``, a limit belongs to the band below it."""
    bands = np.searchsorted(limits, numbers, side="left" if upto else "right")
    return np.where(np.isfinite(numbers), bands, -1)


def _joined(limits: Sequence[float], numbers: NDArray[np.float64], patients: Sequence[str], upto: bool) -> list[float]:
    """The limits left after merging the smallest band with its smaller neighbour until all bands are big enough."""
    limits, everyone = list(limits), np.asarray(patients, dtype=object)
    while limits:
        bands = _band_of(numbers, limits, upto)
        sizes = [len(set(everyone[bands == band])) for band in range(len(limits) + 1)]
        smallest = int(np.argmin(sizes))
        if sizes[smallest] >= SMALLEST_SUBGROUP:
            break
        neighbours = [band for band in (smallest - 1, smallest + 1) if 0 <= band < len(sizes)]
        limits.pop(min(smallest, min(neighbours, key=lambda band: sizes[band])))
    return limits


def _round_terciles(numbers: NDArray[np.float64]) -> list[float]:
    near = np.quantile(numbers, [0.25, 0.42, 0.58, 0.75])
    return sorted({_round_between(near[0], near[1]), _round_between(near[2], near[3])})


def _round_between(low: float, high: float) -> float:
    """The roundest number near the middle of an interval: a multiple of 5, 2 or 1 times a power of ten."""
    middle = (low + high) / 2
    if high <= low:
        return float(middle)
    for power in range(math.ceil(math.log10(max(abs(low), abs(high), high - low))), -12, -1):
        for step in (5, 2, 1):
            candidate = round(middle / (step * 10.0**power)) * step * 10.0**power
            if low <= candidate <= high:
                return float(f"{candidate:.12g}")
    return float(middle)


def _texts(limits: Sequence[float], unit: str, *, upto: bool, years: bool) -> list[str]:
    first, last = ("up to", "over {}") if upto else ("under", "{} or more")
    pairs = list(pairwise(limits))
    if upto:
        middle = [f"over {low:.12g} to {high:.12g}{unit}" for low, high in pairs]
    elif years:  # ages are in completed years
        middle = [f"{low:.12g} to {high - 1:.12g}" for low, high in pairs]
    else:
        middle = [f"{low:.12g} to under {high:.12g}{unit}" for low, high in pairs]
    return [f"{first} {limits[0]:.12g}{unit}", *middle, last.format(f"{limits[-1]:.12g}{unit}")]
