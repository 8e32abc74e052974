"""The wrong calls that were surest of themselves, to look at."""

from __future__ import annotations

import base64

from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.section import Section


def section(evidence: Evidence, t: Translator) -> Section | None:
    if not evidence.misses:
        return None
    shown = [
        {
            "scan": miss.scan,
            "picture": base64.b64encode(miss.picture).decode("ascii"),
            "words": {
                "truth": miss.truth or t("none"),
                "called": miss.predicted or t("none"),
                "probability": f"{miss.probability:.2f}",
            },
        }
        for miss in evidence.misses
    ]
    return Section(t("Worst misses"), values={"misses": shown})
