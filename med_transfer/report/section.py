"""What one section of the report says, and the form of a module that says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.figure import Figure
from med_transfer.report.table import Table


@dataclass(frozen=True)
class LeftOut:
    """What would say nothing, translated: its name, and why. It is named at the end of the page."""

    title: str
    why: str


@dataclass(frozen=True)
class Section:
    """One section, before it is HTML.

    A template, ``<name>.html.jinja`` next to its module, places ``tables.<name>`` and ``figures.<name>``, and has
    ``evidence``, ``metrics``, ``run`` and everything in ``values``. Without one, figures and tables follow each other.

    Attributes:
        title: its heading, translated.
        tables, figures: in any order; each is written as a file of its own as well. Names are unique in the section.
        values: more for the template, translated.
        left_out: parts that would say nothing.
    """

    title: str
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    values: Mapping[str, object] = field(default_factory=dict)
    left_out: Sequence[LeftOut] = ()


class SectionModule(Protocol):
    """A module of ``med_transfer.report.sections``."""

    __name__: str

    @staticmethod
    def section(evidence: Evidence, t: Translator) -> Section | LeftOut | None:
        """What the section says; None where it is of something that was not done, LeftOut where it says nothing."""
        ...
