"""How far the evaluated cohort lies from the one the network was developed on."""

from __future__ import annotations

from collections.abc import Mapping

from med_transfer.errors.numbers import whole_percent
from med_transfer.metrics.records.domain import OUT_OF_DISTRIBUTION, Domain, NumberShift, Spread, TextShift
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.page import Translator, sentence
from med_transfer.report.acquisition_name import acquisition_cell
from med_transfer.report.evidence import Evidence
from med_transfer.report.numbers import tenths
from med_transfer.report.section import Section
from med_transfer.report.table import Cell, Table, estimated, number

_AXES = {"column": sentence("column"), "row": sentence("row"), "slice": sentence("slice")}


def section(evidence: Evidence, t: Translator) -> Section | None:
    """This part of the report in the language of ``t``; None where there is nothing to show."""
    domain = evidence.metrics.domain
    if domain is None:
        return None
    over_patients = " " + t("†: interval over patients.") if evidence.clustered else ""
    tables = [_distance(domain, over_patients, t), _prevalence(domain, over_patients, t)]
    tables += [_numbers(domain.numbers, t)] if domain.numbers else []
    tables += [_texts(domain.texts, t)] if domain.texts else []
    return Section(t("Distance from the training cohort"), tables)


def _distance(domain: Domain, over_patients: str, t: Translator) -> Table:
    axes = t(", ").join(f"{t(_AXES[axis])} {n}" for axis, n in domain.outside_by_axis.items() if n)
    outside = t("Spacing outside the training range") + (f" ({axes})" if axes else "")
    novel = t(
        "Out-of-distribution: novelty above that of {share} of held-out scans ({chance} expected by chance)",
        share=f"{OUT_OF_DISTRIBUTION:.0%}",
        chance=f"{1 - OUT_OF_DISTRIBUTION:.0%}",
    )
    rows: list[tuple[str, Cell]] = [
        (outside, estimated(domain.outside_envelope, "percent", t)),
        (novel, estimated(domain.out_of_distribution, "percent", t)),
    ]
    if domain.abstained is not None:
        above = t("Above the limit at which the bundle abstains ({limit})", limit=f"{domain.abstain_above:g}")
        rows.append((above, estimated(domain.abstained, "percent", t)))
    return Table(
        "distance",
        t("Scans of this cohort that are unlike the training scans.") + over_patients,
        (t("Scans"), t("Share")),
        rows,
    )


def _prevalence(domain: Domain, over_patients: str, t: Translator) -> Table:
    return Table(
        "prevalence",
        t("Share of scans. Predictive values and calibration hold only at the prevalence at which they were measured.")
        + over_patients,
        (t("Class"), t("Prevalence in training"), t("Prevalence here")),
        [
            (name, _share(shift.training, t), estimated(shift.here, "percent", t))
            for name, shift in domain.prevalence.items()
        ],
    )


def _share(share: float | None, t: Translator) -> Cell:
    return _unknown(t) if share is None else number(share, tenths)


def _unknown(t: Translator, name: str = "") -> Cell:
    """``name``: of the value that is not known."""
    return Cell(t("not known"), values={name: None}, undefined=True)


def _numbers(shifts: Mapping[str, NumberShift], t: Translator) -> Table:
    return Table(
        "numbers",
        t("Acquisition: median and range"),
        (t("Parameter"), t("Training"), t("Here"), t("Outside the range of training")),
        [
            (acquisition_cell(name, t), _spread(shift.training, t), _spread(shift.here, t), _outside(shift.outside, t))
            for name, shift in shifts.items()
        ],
    )


def _spread(spread: Spread | None, t: Translator) -> Cell:
    if spread is None:
        return _unknown(t, t("median"))
    span = t("{low} to {high}", low=f"{spread.low:g}", high=f"{spread.high:g}")
    values = {t("median"): spread.median, t("smallest"): spread.low, t("largest"): spread.high}
    return Cell(f"{spread.median:g}", (span,), values)


def _outside(share: Estimate | None, t: Translator) -> Cell:
    return _unknown(t) if share is None else estimated(share, "percent", t)


def _texts(shifts: Mapping[str, TextShift], t: Translator) -> Table:
    return Table(
        "texts",
        t("Acquisition: values and their shares"),
        (t("Parameter"), t("Training"), t("Here"), t("Value not seen in training")),
        [
            (acquisition_cell(name, t), _listed(shift.training, t), _listed(shift.here, t), _outside(shift.unseen, t))
            for name, shift in shifts.items()
        ],
        kind="text",
    )


def _listed(shares: Mapping[str, float] | None, t: Translator) -> Cell:
    if not shares:
        return _unknown(t)
    text = t(", ").join(f"{value} {whole_percent(share)}" for value, share in shares.items())
    return Cell(text, values={"": text})
