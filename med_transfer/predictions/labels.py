"""Class names, their order, and the conversion of labels to arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import CohortError, printable


@dataclass(frozen=True)
class Labels:
    """Class names in the order of the network's outputs.

    With ``multilabel``, a scan can have any number of findings (sigmoid outputs); otherwise it has exactly one class
    (softmax).

    Raises:
        CohortError: duplicate names, names that a table cannot hold, or too few classes.
    """

    names: tuple[str, ...]
    multilabel: bool = False

    def __post_init__(self) -> None:
        for name in self.names:
            if not _can_be_written(name):
                raise CohortError(
                    f"class name {name!r}",
                    where="label",
                    expected="one line without ';', which joins names in predictions.csv, and not {}, which is none",
                    action="Give the class another name in the table",
                )
        if len(set(self.names)) != len(self.names):
            raise CohortError(f"class names repeat: {', '.join(self.names)}", expected="distinct names")
        if len(self.names) < (1 if self.multilabel else 2):
            raise CohortError(
                f"{len(self.names)} class ({', '.join(self.names)})",
                where="label",
                expected="at least two classes",
                action="Add scans of another class; one class alone cannot be learned",
            )

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Index of a class. Raises CohortError for an unknown name."""
        try:
            return self.names.index(name)
        except ValueError:
            raise CohortError(f"unknown class {name!r}", expected=f"one of {', '.join(self.names)}") from None

    def one_hot(self, truth: Sequence[str | Iterable[str]]) -> NDArray[np.bool_]:
        """Boolean array [scan, class] from one class name per scan, or with ``multilabel`` its findings.

        Raises:
            CohortError: an unknown name.
        """
        table = np.zeros((len(truth), len(self)), dtype=bool)
        for row, entry in enumerate(truth):
            for name in [entry] if isinstance(entry, str) else entry:
                table[row, self.index(name)] = True
        return table


def _can_be_written(name: str) -> bool:
    """Whether tables, logs and terminals show the name unchanged."""
    return name == " ".join(printable(name).split()) and ";" not in name and name not in ("", "{}")
