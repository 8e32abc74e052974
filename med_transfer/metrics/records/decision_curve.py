"""Records of decision curves in metrics.json."""

from __future__ import annotations

from pydantic import Field

from med_transfer.metrics.records.estimate import Interval, Record


class NetBenefit(Record):
    """Net benefit at one threshold, which implies that a true positive is worth (1 - threshold) / threshold false ones.

    Attributes:
        threshold: probability of the class from which a scan is acted upon.
        net_benefit: net benefit of the model, in true positives per scan; at most the prevalence. Treating no one
            has 0.
        treat_all: net benefit of treating everyone.
        gain: gain over the better of treating everyone and no one.
        ci95, gain_ci95: intervals of ``net_benefit`` and ``gain``, pointwise.
    """

    threshold: float
    net_benefit: float
    ci95: Interval | None
    treat_all: float
    gain: float
    gain_ci95: Interval | None

    @property
    def useful(self) -> bool:
        """Whether the model is shown to be better than treating everyone and than treating no one."""
        return self.gain_ci95 is not None and self.gain_ci95[0] > 0


class DecisionCurve(Record):
    """Decision curve of one class against the rest."""

    points: list[NetBenefit] = Field(default_factory=list)
    method: str
