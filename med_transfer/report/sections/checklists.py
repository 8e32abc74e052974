"""Reporting guidelines, item by item: what this run answers, and what is left for the author."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from med_transfer.config import StrictModel, load_config
from med_transfer.page import Language, Translator, sentence
from med_transfer.report.evidence import Evidence
from med_transfer.report.section import Section
from med_transfer.report.sections.checklists_answers import ANSWERS
from med_transfer.report.table import Cell, Table

FOLDER = Path(__file__).parents[1] / "checklists"
NAMES = ("stard_ai_2025", "claim_2024", "tripod_ai_2024")
Status = Literal["whole", "part", "author"]

_STATUS: dict[Status, str] = {
    "whole": sentence("from the run"),
    "part": sentence("in part"),
    "author": sentence("for the author"),
}


class Item(StrictModel):
    """One item, in words of our own.

    Attributes:
        number: in the published list.
        en, zh_tw: what it asks for.
        answer: name of what the run knows of it, see ``ANSWERS``; empty: nothing.
        whole: that is all the item asks for.
    """

    number: str
    en: str
    zh_tw: str = Field(alias="zh-TW")
    answer: str = ""
    whole: bool = False

    def asks(self, language: Language) -> str:
        """The item's text in that language."""
        return self.zh_tw if language == "zh-TW" else self.en


class Checklist(StrictModel):
    """A reporting guideline and where it was published."""

    name: str
    source: str
    items: tuple[Item, ...]


@cache
def read_checklist(name: str) -> Checklist:
    """One of ``NAMES``."""
    return load_config(Checklist, FOLDER / f"{name}.yaml")


def section(evidence: Evidence, t: Translator) -> Section:
    """This part of the report in the language of ``t``."""
    tables, lists = [], []
    for name in NAMES:
        checklist = read_checklist(name)
        answered = [(item, *_answered(item, evidence, t)) for item in checklist.items]
        tables.append(_table(name, checklist, answered, t))
        lists.append({"table": name, "source": checklist.source, "summary": _counted(checklist, answered, t)})
    return Section(t("Reporting checklists"), tables, values={"lists": lists})


def _answered(item: Item, evidence: Evidence, t: Translator) -> tuple[Status, str]:
    answer = ANSWERS[item.answer](evidence, t) if item.answer else None
    if answer is None:
        return "author", ""
    return ("whole" if item.whole else "part"), answer


def _table(name: str, checklist: Checklist, answered: list[tuple[Item, Status, str]], t: Translator) -> Table:
    return Table(
        name.replace("_", "-"),
        t("{name}, in our own words; the published list is authoritative.", name=checklist.name),
        (t("Item"), t("What it asks for"), t("Answered"), t("From this run")),
        [
            (item.number, item.asks(t.language), Cell(t(_STATUS[status]), strong=status == "whole"), answer)
            for item, status, answer in answered
        ],
        kind="text",
    )


def _counted(checklist: Checklist, answered: list[tuple[Item, Status, str]], t: Translator) -> str:
    n = {status: sum(item_status == status for _, item_status, _ in answered) for status in _STATUS}
    return t("{name}: {whole} items from the run, {part} in part, {author} for the author", name=checklist.name, **n)
