"""Encode a column of the cohort table as numbers: what is learned from the development scans, and its application."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from med_transfer.errors import CohortError
from med_transfer.errors.numbers import is_number
from med_transfer.errors.sentence import Sentence
from med_transfer.predictions.spelling import normalised_text

OTHER = "other/missing"
FEWEST_PATIENTS = 2  # categories with fewer patients are pooled
_MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "null", "unknown", "?", "-", "."}
_NONE = "none"  # a value among words (contrast, smoking); among numbers, Python's text for a missing value
_MOSTLY = 0.5  # a column with a larger share of numbers was meant to be numeric


class Record(BaseModel):
    """Base class of parts of the bundle's record: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Numbers(Record):
    """A numeric column, or a handcrafted feature.

    Attributes:
        median: median of the development scans, which replaces missing values.
        with_missing: whether values were missing there; an indicator feature is then added.
    """

    kind: Literal["numbers"] = "numbers"
    name: str
    median: float
    with_missing: bool

    @property
    def features(self) -> tuple[str, ...]:
        """Names of its features."""
        return (self.name, f"{self.name} missing") if self.with_missing else (self.name,)

    @classmethod
    def learn(cls, name: str, values: NDArray[np.float64]) -> Numbers:
        """Learn the encoding from values [scan], NaN where missing."""
        finite = values[np.isfinite(values)]
        median = float(np.median(finite)) if len(finite) else 0.0
        return cls(name=name, median=median, with_missing=len(finite) < len(values))

    def encode(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return features [scan, feature] for values [scan], NaN where missing."""
        missing = ~np.isfinite(values)
        filled = np.where(missing, self.median, values)
        return np.stack([filled, missing], axis=1) if self.with_missing else filled[:, None]

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return features [scan, feature] for the table's texts."""
        return self.encode(np.array([math.nan if _no_number(text) else float(text) for text in texts]))

    def trouble(self, text: str) -> str:
        """Return why a value cannot be used in prediction; empty if it can."""
        if _no_number(text):
            missing = Sentence("column {name} has no value here, and never lacked one in training", name=self.name)
            return "" if self.with_missing else missing
        return "" if is_number(text) else Sentence("column {name} is not a number here", name=self.name)


class Categories(Record):
    """A categorical column; levels that too few development patients had, or none, are pooled."""

    kind: Literal["categories"] = "categories"
    name: str
    levels: tuple[str, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """Names of its features, one per level."""
        return tuple(f"{self.name}={level}" for level in (*self.levels, OTHER))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return a one-hot encoding [scan, level]; the last level is for other and missing values."""
        table = np.zeros((len(texts), len(self.levels) + 1))
        for row, text in enumerate(texts):
            table[row, self.levels.index(text) if text in self.levels else -1] = 1.0
        return table

    def trouble(self, text: str) -> str:
        """Return why a value cannot be used in prediction; empty if it can, as unknown values have their own level."""
        spelled = {normalised_text(level): level for level in self.levels}
        if text in self.levels or (known := spelled.get(normalised_text(text))) is None:
            return ""
        return Sentence(
            "column {name} has another spelling here than in training: {level}", name=self.name, level=known
        )


Column = Annotated[Numbers | Categories, Field(discriminator="kind")]


def learn_column(
    name: str, texts: Sequence[str], patients: Sequence[str], rows: Sequence[object] | None = None, where: object = ""
) -> Column:
    """Learn the encoding of a column from the development scans.

    Args:
        name: name of the column.
        texts, patients: value and patient of each development scan.
        rows: how messages name each scan.
        where: the table, for messages.

    Raises:
        CohortError: the column is empty, constant, or mostly numeric with other text in it, or spells one value in two
            ways.
    """
    texts = without_missing(texts)
    filled = [text for text in texts if text]
    if len(set(filled)) < 2:
        fault = "the same value in every" if filled else "no value in any"
        raise CohortError(
            f"column {name!r} has {fault} development scan",
            where=where,
            expected="at least two values",
            action="Leave it out of fusion.columns",
        )
    numeric = [is_number(text) for text in filled]
    if all(numeric):
        return Numbers.learn(name, np.array([float(text) if text else math.nan for text in texts]))
    if np.mean(numeric) > _MOSTLY:
        odd = next(n for n, text in enumerate(texts) if text and not is_number(text))
        raise CohortError(
            f"{rows[odd] if rows else f'scan {odd + 1}'} has something other than a number in column {name!r}",
            where=where,
            expected="a number as in most rows, or an empty cell",
        )
    _require_one_spelling(name, texts, rows, where)
    having = defaultdict(set)
    for text, patient in zip(texts, patients, strict=True):
        having[text].add(patient)
    levels = sorted(text for text in set(filled) if len(having[text]) >= FEWEST_PATIENTS)
    return Categories(name=name, levels=tuple(levels))


def _require_one_spelling(name: str, texts: Sequence[str], rows: Sequence[object] | None, where: object) -> None:
    """Raise CohortError for two spellings of one value, which would be two levels, one of them perhaps a rare one."""
    first: dict[str, int] = {}
    for number, text in enumerate(texts):
        before = first.setdefault(normalised_text(text), number)
        if texts[before] != text:
            named = [str(rows[n]) if rows else f"scan {n + 1}" for n in (before, number)]
            raise CohortError(
                f"{' and '.join(named)} have values in column {name!r} that differ only in case, spaces or look-alikes",
                where=where,
                expected="one spelling a value",
                action="Correct the column",
            )


def with_values(columns: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return each scan's columns without those that are empty in every row, which count as absent."""
    filled = {name for row in columns for name, text in row.items() if not is_missing(text)}
    return [{name: text for name, text in row.items() if name in filled} for row in columns]


def is_missing(text: str) -> bool:
    """Whether a cell is empty or marks a missing value."""
    return text.strip().casefold() in _MISSING


def without_missing(texts: Sequence[str]) -> list[str]:
    """Return a column's texts, empty where missing; ``none`` is a value among words but missing among numbers."""
    filled = ["" if is_missing(text) else text for text in texts]
    numbers = all(is_number(text) for text in filled if not _no_number(text))
    any_number = any(map(is_number, filled))
    return ["" if numbers and any_number and _no_number(text) else text for text in filled]


def _no_number(text: str) -> bool:
    return is_missing(text) or text.strip().casefold() == _NONE
