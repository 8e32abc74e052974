"""From figures to one order: what can be told apart by the probe is, and what cannot by LogME, then by cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LOG_ME_DECIMALS = 2


@dataclass(frozen=True)
class Contender:
    """What decides the place of a backbone, or of a layer.

    Attributes:
        macro_auc: of the cross-validated linear probe, in [0, 1].
        standard_error: of that, over patients.
        log_me: see :func:`med_transfer.transfer.logme.log_me`.
        cost: the lower the better, in any unit that all share.
        name: decides where all else is equal, so that the order never depends on that of the arguments.
    """

    name: str
    macro_auc: float
    standard_error: float
    log_me: float
    cost: float


def in_order(contenders: Sequence[Contender]) -> list[Contender]:
    """Best first.

    The one with the highest macro AUC leads, and whoever is at most its standard error below ties with it. A tie is
    decided by LogME to two decimals, then by cost. The first one so found is placed, and the rest is ordered alike.

    Source: one standard error rule, Breiman et al. 1984, Classification and Regression Trees, section 3.4.3.
    """
    left, placed = list(contenders), []
    while left:
        best = min(tied_with_the_best(left), key=_within_a_tie)
        placed.append(best)
        left.remove(best)
    return placed


def tied_with_the_best(contenders: Sequence[Contender]) -> list[Contender]:
    """Those whose macro AUC lies within one standard error of the highest, that one included."""
    leader = max(contenders, key=lambda one: (one.macro_auc, one.standard_error))
    return [one for one in contenders if one.macro_auc >= leader.macro_auc - leader.standard_error]


def _within_a_tie(one: Contender) -> tuple[float, float, float, str]:
    return -round(one.log_me, LOG_ME_DECIMALS), one.cost, -one.macro_auc, one.name
