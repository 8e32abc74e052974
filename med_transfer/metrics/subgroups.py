"""Performance in each subgroup, and tests of whether the subgroups of a column differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import UsageError
from med_transfer.errors.sentence import Sentence
from med_transfer.metrics import measures
from med_transfer.metrics.class_rates import sensitivities
from med_transfer.metrics.combination import absent_classes
from med_transfer.metrics.config import EvaluationConfig
from med_transfer.metrics.grouping import SMALLEST_SUBGROUP, UNKNOWN, Grouping
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.paired_tests import holm
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.metrics.records.subgroups import Subgroup, SubgroupTest

N_PERMUTATIONS = 2000
_BLOCK = 500  # permutations held in memory at once
_ROUNDING = 1e-9  # tolerance for summing the same statistic in another order


def subgroup_metrics(
    predictions: LabelledPredictions, grouping: Grouping, config: EvaluationConfig
) -> dict[str, Subgroup]:
    """Return the measures of each subgroup, in order; undefined below ``SMALLEST_SUBGROUP`` patients.

    Raises:
        UsageError: the grouping does not have one subgroup per scan.
    """
    if len(grouping.of_scan) != len(predictions):
        raise UsageError(
            f"{len(grouping.of_scan)} values",
            where=f"subgroups.{grouping.column}",
            expected=f"{len(predictions)}, one for every scan",
        )
    of_scan = np.asarray(grouping.of_scan)
    return {name: _measured(predictions.take(of_scan == name), config) for name in grouping.order}


def _measured(predictions: LabelledPredictions, config: EvaluationConfig) -> Subgroup:
    n, n_patients = len(predictions), predictions.n_patients
    if n_patients < SMALLEST_SUBGROUP:
        masked = Estimate.undefined(Sentence("fewer than {n} patients", n=SMALLEST_SUBGROUP))
        sensitivity = dict.fromkeys(predictions.labels.names, masked)
        return Subgroup(n=n, n_patients=n_patients, balanced_accuracy=masked, macro_auc=masked, sensitivity=sensitivity)
    return Subgroup(
        n=n,
        n_patients=n_patients,
        balanced_accuracy=measures.balanced_accuracy(predictions),
        macro_auc=measures.macro_auc(predictions),
        sensitivity=sensitivities(predictions, config),
        absent=absent_classes(predictions),
    )


def subgroup_tests(
    predictions: LabelledPredictions, groupings: Sequence[Grouping], seed: int = 0
) -> dict[str, SubgroupTest]:
    """Return one test per column, corrected for their number by Holm's method (Holm 1979, Scand J Stat 6:65)."""
    tests = {grouping.column: _test(predictions, grouping, seed) for grouping in groupings}
    corrected = dict(zip(tests, holm([test.p_value for test in tests.values()]), strict=True))
    return {column: test.model_copy(update={"p_holm": corrected[column]}) for column, test in tests.items()}


def _test(predictions: LabelledPredictions, grouping: Grouping, seed: int) -> SubgroupTest:
    of_scan = np.asarray(grouping.of_scan)
    sizes = {name: predictions.patients_among(of_scan == name) for name in grouping.order}
    compared = [name for name, size in sizes.items() if size >= SMALLEST_SUBGROUP and name != UNKNOWN]
    test = SubgroupTest(
        how=grouping.how,
        same_as=list(grouping.same_as),
        compared=compared,
        fewest_patients=min((sizes[name] for name in compared), default=0),
        too_small=[name for name, size in sizes.items() if size < SMALLEST_SUBGROUP],
    )
    if len(compared) < 2:
        few = Sentence("fewer than two subgroups of at least {n} patients", n=SMALLEST_SUBGROUP)
        return test.model_copy(update={"reason": grouping.unsuitable or few})
    among = np.isin(of_scan, compared)
    statistic, p_value = permutation_test(predictions.take(among), of_scan[among].tolist(), N_PERMUTATIONS, seed)
    if p_value is None:
        reason = Sentence("no class with right and wrong calls lies in several subgroups")
        return test.model_copy(update={"reason": reason})
    return test.model_copy(update={"statistic": statistic, "p_value": p_value, "method": _method(predictions, seed)})


def _method(predictions: LabelledPredictions, seed: int) -> str:
    rates = (
        "sensitivity and specificity of every finding" if predictions.labels.multilabel else "every class's sensitivity"
    )
    return (
        f"sum of Pearson's chi-squared over {rates}; {N_PERMUTATIONS} permutations of the patients' subgroups within "
        f"true class (seed {seed})"
    )


def permutation_test(
    predictions: LabelledPredictions, groups: Sequence[str], n_permutations: int, seed: int
) -> tuple[float, float | None]:
    """Test whether calls are right equally often in all subgroups, given the true class.

    The statistic is the sum over classes of Pearson's chi-squared of subgroup by right or wrong call; with several
    findings, over the scans with and without each finding. Its null distribution comes from permuting subgroups among
    patients of the same true classes, so that a subgroup with many scans of a difficult class is not mistaken for one
    in which the network fails. A patient with scans in several subgroups is permuted once for each of them.

    Args:
        predictions: the scans.
        groups: subgroup of each scan.
        n_permutations, seed: number and random seed of the permutations.

    Returns:
        The statistic, and its p-value: the share of permutations, including the observed one, that reach it (Phipson &
        Smyth 2010, Stat Appl Genet Mol Biol 9:39); None if no permutation can change the statistic.
    """
    units, unit_of_scan = np.unique(np.array([predictions.patients, groups]), axis=1, return_inverse=True)
    cells = (
        np.concatenate([predictions.truth, ~predictions.truth], axis=1)
        if predictions.labels.multilabel
        else predictions.truth
    )
    right = np.tile(predictions.predicted == predictions.truth, 2 if predictions.labels.multilabel else 1)
    totals, hits = (_summed(table, unit_of_scan.ravel(), units.shape[1]) for table in (cells, cells & right))
    _, group = np.unique(units[1], return_inverse=True)
    _, stratum = np.unique(totals > 0, axis=0, return_inverse=True)
    observed = float(_chi_squared(group[None], hits, totals)[0])
    rng, reached, spread = np.random.default_rng(seed), 1, False
    for start in range(0, n_permutations, _BLOCK):
        permuted = _permuted(group, stratum.ravel(), min(_BLOCK, n_permutations - start), rng)
        draws = _chi_squared(permuted, hits, totals)
        reached += int((draws >= observed - _ROUNDING).sum())
        spread |= bool(np.ptp(np.append(draws, observed)) > _ROUNDING)
    return observed, reached / (n_permutations + 1) if spread else None


def _summed(table: NDArray[np.bool_], unit_of_scan: NDArray[np.intp], n_units: int) -> NDArray[np.float64]:
    sums = np.zeros((n_units, table.shape[1]))
    np.add.at(sums, unit_of_scan, table)
    return sums


def _permuted(group: NDArray[np.intp], stratum: NDArray[np.intp], n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Subgroups [permutation, unit], shuffled within each stratum."""
    permuted = np.tile(group, (n, 1))
    for number in range(stratum.max() + 1):
        columns = np.flatnonzero(stratum == number)
        permuted[:, columns] = rng.permuted(permuted[:, columns], axis=1)
    return permuted


def _chi_squared(
    group: NDArray[np.intp], hits: NDArray[np.float64], totals: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Statistic [permutation] for subgroups [permutation, unit], with hits and totals [unit, class]."""
    rate = hits.sum(axis=0) / np.maximum(totals.sum(axis=0), 1)
    varies = (rate > 0) & (rate < 1)
    hits, totals, rate = hits[:, varies], totals[:, varies], rate[varies]
    statistic = np.zeros(len(group))
    for number in range(group.max() + 1):
        in_subgroup = (group == number).astype(np.float64)
        expected = in_subgroup @ totals * rate
        surplus, spread = (in_subgroup @ hits - expected) ** 2, expected * (1 - rate)
        statistic += np.divide(surplus, spread, out=np.zeros_like(surplus), where=spread > 0).sum(axis=1)
    return statistic
