"""How far the maps of where the network looked can be trusted."""

from __future__ import annotations

from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.run_summary import MapChecks
from med_transfer.report.section import Section
from med_transfer.report.table import Cell, Table


def section(evidence: Evidence, t: Translator) -> Section | None:
    """This part of the report in the language of ``t``; None where there is nothing to show."""
    checks = evidence.map_checks
    if checks is None:
        return None
    values = {
        "doubts": _doubts(checks, t),
        "attention": checks.method == "attention",
        "fused": evidence.model == "fused model",
        "out_of_fold": evidence.metrics.out_of_fold,  # then each map is of the one network that had not seen the scan
    }
    return Section(t("Where the network looked"), [_table(checks, t)], values=values)


def _table(checks: MapChecks, t: Translator) -> Table:
    share = f"{100 * (checks.hidden_share or 0):.0f}"
    rows: list[tuple[str, Cell | int]] = [
        (t("Maps made, of the errors shown below"), checks.n),
        (t("Maps in which nothing supports the class"), checks.n_empty),
        (
            t(
                "Drop in probability when the strongest part of the map (at most {share} % of the input) is hidden",
                share=share,
            ),
            _cell(checks.drop),
        ),
        (t("Drop when a region of the same size and shape elsewhere is hidden"), _cell(checks.random_drop)),
        (t("Rank correlation with the map of random weights"), _cell(checks.correlation)),
    ]
    if checks.element_mm is not None:
        depth, height, width = checks.element_mm
        size = f"{depth:.3g} × {height:.3g} × {width:.3g}".replace(" ", "\N{NO-BREAK SPACE}")
        rows.insert(2, (t("Smallest detail that a map can resolve, mm"), Cell(size)))
    return Table("checks", t("Checks of the maps; means over the maps"), (t("Check"), t("Found")), rows)


def _cell(value: float | None) -> Cell:
    return Cell("–" if value is None else f"{round(value, 2) + 0.0:.2f}", values={"": value}, undefined=value is None)


def _doubts(checks: MapChecks, t: Translator) -> list[str]:
    doubts = []
    if checks.alike:
        doubts.append(
            t(
                "These maps hardly depend on what the network learned: with random weights they look much the same. "
                "Do not interpret them."
            )
        )
    if 2 * checks.n_no_better > checks.n - checks.n_empty:
        doubts.append(
            t(
                "In {number} of {n} maps, the strongest part is not clearly more important to the answer than other "
                "parts.",
                number=checks.n_no_better,
                n=checks.n - checks.n_empty,
            )
        )
    return doubts
