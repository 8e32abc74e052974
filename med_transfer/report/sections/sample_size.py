"""What so many test patients can show, and how many a narrower interval needs, in words and as a table."""

from __future__ import annotations

from collections.abc import Iterator

from med_transfer.errors.numbers import rounded
from med_transfer.metrics.records.class_metrics import SampleSize
from med_transfer.page import Translator, sentence
from med_transfer.report.evidence import Evidence
from med_transfer.report.numbers import patients
from med_transfer.report.section import Section
from med_transfer.report.table import Cell, Table, number

_SENTENCES = {
    "sensitivity": sentence(
        "With {patients} labelled {name}, a sensitivity of {value} has an interval of {low} to {high}; a width of "
        "{wanted} requires about {needed} patients if the sensitivity stays the same, and up to {most} if it is "
        "{worst}."
    ),
    "specificity": sentence(
        "With {patients} not labelled {name}, a specificity of {value} has an interval of {low} to {high}; a width "
        "of {wanted} requires about {needed} patients if the specificity stays the same, and up to {most} if it is "
        "{worst}."
    ),
}
_NAMES = {"sensitivity": sentence("Sensitivity"), "specificity": sentence("Specificity")}


def section(evidence: Evidence, t: Translator) -> Section | None:
    """This part of the report in the language of ``t``; None where there is nothing to show."""
    stated = list(_stated(evidence))
    if not stated:
        return None
    words = [_in_words(name, rate, size, t) for name, rate, size in stated if rate == "sensitivity"]
    return Section(t("What this many patients can show"), [_table(stated, t)], values={"words": words})


def _stated(evidence: Evidence) -> Iterator[tuple[str, str, SampleSize]]:
    for name, class_metrics in evidence.metrics.classes.items():
        for rate, size in class_metrics.sample_size.items():
            yield name, rate, size


def _in_words(name: str, rate: str, size: SampleSize, t: Translator) -> str:
    return t(
        _SENTENCES[rate],
        patients=patients(size.n_patients, t),
        name=name,
        value=_two(size.value),
        low=_two(size.ci95[0]),
        high=_two(size.ci95[1]),
        wanted=f"{size.wanted_width:g}",
        needed=size.n_needed,
        most=size.n_needed_at_worst,
        worst=_two(size.worst_value),
    )


def _two(number: float) -> str:
    return rounded(number, 2)


def _table(stated: list[tuple[str, str, SampleSize]], t: Translator) -> Table:
    wanted = f"{stated[0][2].wanted_width:g}"
    return Table(
        "patients",
        t("Patients available, and patients needed for an interval of width {wanted}", wanted=wanted),
        (
            t("Class"),
            t("Rate"),
            t("Found"),
            t("Patients"),
            t("Width of the interval"),
            t("Needed, same rate"),
            t("Needed at most"),
        ),
        [(name, *_row(rate, size, t)) for name, rate, size in stated],
    )


def _row(rate: str, size: SampleSize, t: Translator) -> tuple[Cell | str | int, ...]:
    value, width = number(size.value, _two), number(size.width, _two)
    return t(_NAMES[rate]), value, size.n_patients, width, size.n_needed, size.n_needed_at_worst
