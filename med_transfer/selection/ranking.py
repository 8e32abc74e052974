"""The ranking rule: by the probe's macro AUC, ties by LogME, remaining ties by cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BARE_MENTION_NATS = 1.0  # a log Bayes factor below this is "not worth more than a bare mention"


@dataclass(frozen=True)
class RankingCriteria:
    """The criteria for ranking a backbone, or a layer.

    Attributes:
        name: decides if all else is equal, so that the result does not depend on the order of the arguments.
        macro_auc: of the cross-validated linear probe, in [0, 1].
        standard_error: of the macro AUC, over patients.
        log_me: per scan, see :func:`med_transfer.selection.measures.logme.log_me`.
        cost: lower is better, in any common unit.
    """

    name: str
    macro_auc: float
    standard_error: float
    log_me: float
    cost: float


def rank(contenders: Sequence[RankingCriteria], patients: int) -> list[RankingCriteria]:
    """Rank contenders, best first.

    All contenders at most one standard error below the highest macro AUC tie with it. Of these, all whose LogME, over
    one scan of each patient, is less than one nat below the highest still tie. Of these, the cheapest is placed first;
    among equally cheap ones, that with the higher LogME. The same procedure then ranks the rest.

    Args:
        contenders: in any order.
        patients: number of patients that the figures were measured on; differences in LogME per scan times this number
            are log Bayes factors. Scans of one patient are alike, so further ones are no further evidence.

    Source: one standard error rule, Breiman et al. 1984, Classification and Regression Trees, section 3.4.3; scale of
    evidence, Kass and Raftery 1995, JASA 90:773, section 3.2.
    """
    left, placed = list(contenders), []
    while left:
        best = min(alike_by_evidence(tied_with_the_best(left), patients), key=_cheapest)
        placed.append(best)
        left.remove(best)
    return placed


def tied_with_the_best(contenders: Sequence[RankingCriteria]) -> list[RankingCriteria]:
    """Contenders whose macro AUC is within one standard error of the highest, including the latter."""
    leader = max(contenders, key=lambda contender: (contender.macro_auc, contender.standard_error))
    return [contender for contender in contenders if contender.macro_auc >= leader.macro_auc - leader.standard_error]


def alike_by_evidence(contenders: Sequence[RankingCriteria], patients: int) -> list[RankingCriteria]:
    """Contenders whose LogME, over all patients, is less than one nat below the highest, including the latter."""
    highest = max(contender.log_me for contender in contenders)
    return [contender for contender in contenders if not is_evidence(highest - contender.log_me, patients)]


def is_evidence(log_me_gain: float, patients: int) -> bool:
    """Whether a difference in LogME per scan amounts to at least one nat over all patients."""
    return log_me_gain * patients >= BARE_MENTION_NATS


def _cheapest(contender: RankingCriteria) -> tuple[float, float, float, str]:
    return contender.cost, -contender.log_me, -contender.macro_auc, contender.name
