"""From figures to one order: by the probe where it tells them apart, then by LogME where that does, then by cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

BARE_MENTION_NATS = 1.0  # a log Bayes factor below this is "not worth more than a bare mention"


class Probed(Protocol):
    """Whatever a cross-validated linear probe has measured."""

    @property
    def macro_auc(self) -> float:
        """Of the cross-validated probe, in [0, 1]."""
        ...

    @property
    def standard_error(self) -> float:
        """Of the macro AUC."""
        ...


AnyProbed = TypeVar("AnyProbed", bound=Probed)


@dataclass(frozen=True)
class RankingCriteria:
    """What decides the rank of a backbone, or of a layer.

    Attributes:
        macro_auc: of the cross-validated linear probe, in [0, 1].
        standard_error: of that, over patients.
        log_me: a scan, see :func:`med_transfer.selection.measures.logme.log_me`.
        cost: the lower the better, in any unit that all share.
        name: decides where all else is equal, so that the order never depends on that of the arguments.
    """

    name: str
    macro_auc: float
    standard_error: float
    log_me: float
    cost: float


def rank(contenders: Sequence[RankingCriteria], scans: int) -> list[RankingCriteria]:
    """Best first.

    The one with the highest macro AUC leads, and whoever is at most its standard error below ties with it. In a tie
    the highest LogME leads, and whoever the ``scans`` give it less than one nat of evidence against ties on. Then the
    cheapest is first, and among equally cheap ones the higher LogME. It is placed, and the rest is ordered alike.

    Args:
        contenders: in any order.
        scans: that the figures were measured on; LogME a scan, times this, is a log Bayes factor.

    Source: one standard error rule, Breiman et al. 1984, Classification and Regression Trees, section 3.4.3; scale of
    evidence, Kass and Raftery 1995, JASA 90:773, section 3.2.
    """
    left, placed = list(contenders), []
    while left:
        best = min(alike_by_evidence(tied_with_the_best(left), scans), key=_cheapest)
        placed.append(best)
        left.remove(best)
    return placed


def tied_with_the_best(contenders: Sequence[AnyProbed]) -> list[AnyProbed]:
    """Those whose macro AUC lies within one standard error of the highest, that one included."""
    leader = max(contenders, key=lambda contender: (contender.macro_auc, contender.standard_error))
    return [contender for contender in contenders if contender.macro_auc >= leader.macro_auc - leader.standard_error]


def alike_by_evidence(contenders: Sequence[RankingCriteria], scans: int) -> list[RankingCriteria]:
    """Those whose LogME lies less than one nat, over all scans, below the highest, that one included."""
    highest = max(contender.log_me for contender in contenders)
    return [contender for contender in contenders if not is_evidence(highest - contender.log_me, scans)]


def is_evidence(log_me_gain: float, scans: int) -> bool:
    """Whether a difference of LogME a scan, over so many scans, is worth more than a bare mention."""
    return log_me_gain * scans >= BARE_MENTION_NATS


def _cheapest(contender: RankingCriteria) -> tuple[float, float, float, str]:
    return contender.cost, -contender.log_me, -contender.macro_auc, contender.name
