"""Errors to look at: misses of each class, and the surest wrong calls."""

from __future__ import annotations

import base64

from med_transfer.errors.numbers import rounded
from med_transfer.page import Translator, sentence
from med_transfer.report.evidence import Evidence
from med_transfer.report.run_summary import Miss
from med_transfer.report.section import Section

_KINDS = {"miss": sentence("A miss"), "confident": sentence("A confident error")}
_THROUGH = {
    "region": sentence("Planes through the middle of the region of interest."),
    "peak": sentence("Planes through the strongest point of the map."),
    "middle": sentence("Planes through the middle."),
}
_SLICES = sentence("For scans with few slices, neighbouring slices.")


def section(evidence: Evidence, t: Translator) -> Section | None:
    """This part of the report in the language of ``t``; None where there is nothing to show."""
    if not evidence.misses:
        return None
    checks = evidence.map_checks
    places = dict.fromkeys(_SLICES if miss.slices else _THROUGH[miss.through] for miss in evidence.misses)
    return Section(
        t("Misses and confident errors"),
        values={
            "misses": [_shown(miss, miss.doubtful or bool(checks and checks.alike), t) for miss in evidence.misses],
            "kinds": [miss.kind for miss in evidence.misses],
            "attention": evidence.map_checks is not None and evidence.map_checks.method == "attention",
            "out_of_fold": evidence.metrics.out_of_fold,
            "places": " ".join(t(place) for place in places),
        },
    )


def _shown(miss: Miss, doubtful: bool, t: Translator) -> dict[str, object]:
    return {
        "picture": base64.b64encode(miss.picture).decode("ascii"),
        "kind": t(_KINDS[miss.kind]),
        "empty": miss.empty,
        "doubtful": doubtful,
        "slices": miss.slices,
        "words": {
            "row": miss.row,
            "truth": miss.truth or t("none"),
            "called": miss.predicted or t("none"),
            "explained": miss.explained,
            "probability": rounded(miss.probability, 2),
        },
    }
