"""The verdict on a series: accept, repair (and what was done), or reject (and why)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from med_transfer.errors import GeometryRejected

Decision = Literal["accept", "repair", "reject"]
_SEVERITY: tuple[Decision, ...] = ("accept", "repair", "reject")


@dataclass(frozen=True)
class Verdict:
    """``reasons`` are sentences for a person; empty only for a plain ``accept``."""

    decision: Decision = "accept"
    reasons: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        return self.decision != "reject"

    def joined(self, other: Verdict) -> Verdict:
        """The more severe decision of the two, and the reasons of both, each once."""
        decision = _SEVERITY[max(_SEVERITY.index(self.decision), _SEVERITY.index(other.decision))]
        return Verdict(decision, tuple(dict.fromkeys((*self.reasons, *other.reasons))))

    def remarked(self, remarks: Sequence[str]) -> Verdict:
        """The same decision with further reasons."""
        return self.joined(Verdict("accept", tuple(remarks)))

    def __str__(self) -> str:
        return self.decision if not self.reasons else f"{self.decision}: {'; '.join(self.reasons)}"


def require_usable_series(verdict: Verdict, where: object) -> None:
    """Raises GeometryRejected with the reasons of a verdict that rejects."""
    if not verdict.usable:
        raise GeometryRejected(
            "; ".join(verdict.reasons),
            where=where,
            expected="one regular volume of CT, MR or PT values",
            action="Export the series again, or leave it out",
        )
