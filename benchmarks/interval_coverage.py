"""Coverage of each 95 % interval of the evaluation, by simulation.

    OMP_NUM_THREADS=1 python benchmarks/interval_coverage.py > coverage.md
    OMP_NUM_THREADS=1 python benchmarks/interval_coverage.py --samples 200 --resamples 200    # for a look

Proportions: binomial hits; with several scans per patient, a patient's own rate is drawn from a beta distribution with
intra-class correlation 0.5. AUCs: normal scores, as many cases as others. Every sample is one hospital's test set; the
table gives how often the interval that would be printed for it contains the true value, and its width. For Wilson,
Clopper-Pearson and Jeffreys the exact coverage is given beside the simulated one. For two models on the same patients,
the table also gives how often one that is worse by exactly the margin is called non-inferior, which should be 2.5 %.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import binom, norm

from med_transfer.metrics.auc import weighted_auc
from med_transfer.metrics.binomial import BINOMIAL, clopper_pearson, newcombe_paired, wilson
from med_transfer.metrics.delong import auc_interval, delong
from med_transfer.metrics.effective_trials import effective_trials
from med_transfer.metrics.intervals import (
    PatientBootstrap,
    Resampled,
    bca_interval,
    is_degenerate,
    newcombe,
    percentile_interval,
)
from med_transfer.metrics.records.estimate import Interval

SIZES, TRUTHS = (20, 50, 200), (0.5, 0.9, 0.99)
SCANS_PER_PATIENT, CORRELATION, MARGIN = 3, 0.5, 0.05
Method = Callable[[], Interval | None]


@dataclass
class Tally:
    """Tally of one method on one kind of sample."""

    truth: float
    held: int = 0
    missed: int = 0
    none: int = 0
    widths: list[float] = field(default_factory=list)

    def add(self, interval: Interval | None) -> None:
        if interval is None:
            self.none += 1
            return
        low, high = interval
        self.widths.append(high - low)
        held = low - 1e-12 <= self.truth <= high + 1e-12
        self.held += held
        self.missed += not held

    def cell(self) -> str:
        """Coverage in percent, median width in brackets, and the share of samples without an interval, if any.

        A sample without an interval counts as not covered.
        """
        n = self.held + self.none + self.missed
        width = f"{np.median(self.widths):.2f}" if self.widths else "–"
        none = f", none {100 * self.none / n:.0f} %" if self.none else ""
        return f"{100 * self.held / n:.1f} [{width}{none}]"


def proportions(size: int, truth: float, samples: int, resamples: int, seed: int) -> Iterator[tuple[str, str]]:
    """One scan per patient. Only the number of hits matters, so intervals are computed once per number."""
    rng = np.random.default_rng([seed, size, round(1000 * truth)])
    drawn = rng.binomial(size, truth, samples)
    for name, method in BINOMIAL.items():
        by_hits = {hits: method(hits, size) for hits in np.unique(drawn)}
        exact = _exact(method, size, truth)
        yield name, f"{_tally(truth, (by_hits[hits] for hits in drawn)).cell()} {100 * exact:.1f}"
    for name, kind in (("bootstrap percentile", "percentile"), ("bootstrap BCa", "bca")):
        by_hits = {hits: _resampled_rate(int(hits), size, resamples, rng, kind) for hits in np.unique(drawn)}
        yield name, _tally(truth, (by_hits[hits] for hits in drawn)).cell()


def _exact(method: Callable[[float, float], Interval | None], size: int, truth: float) -> float:
    """Exact coverage, by the sum over all numbers of hits."""
    hits = np.arange(size + 1)
    limits = np.array([method(float(k), size) for k in hits])
    return float(binom.pmf(hits, size, truth)[(limits[:, 0] <= truth) & (truth <= limits[:, 1])].sum())


def _resampled_rate(hits: int, size: int, resamples: int, rng: np.random.Generator, kind: str) -> Interval | None:
    draws = rng.binomial(size, hits / size, resamples) / size
    if kind == "percentile":
        return percentile_interval(draws)
    jackknife = (hits - (np.arange(size) < hits)) / (size - 1)
    return bca_interval(hits / size, draws, jackknife)


def clustered_proportions(
    size: int, truth: float, samples: int, resamples: int, seed: int
) -> Iterator[tuple[str, str]]:
    """Several scans per patient, correlated within a patient."""
    rng = np.random.default_rng([seed, size, round(1000 * truth), 3])
    strength = 1 / CORRELATION - 1
    own = rng.beta(truth * strength, (1 - truth) * strength, (samples, size))
    hits = rng.binomial(SCANS_PER_PATIENT, own)
    kinds = (
        "wilson over scans",
        "wilson over patients",
        "cluster percentile",
        "cluster BCa",
        "Korn-Graubard, as printed",
    )
    patients, everyone = _patients(size) * SCANS_PER_PATIENT, np.ones(size * SCANS_PER_PATIENT, dtype=bool)
    tallies = {kind: Tally(truth) for kind in kinds}
    for sample, of_patient in enumerate(hits):
        total, n = int(of_patient.sum()), size * SCANS_PER_PATIENT
        found = _resampled_mean(of_patient / SCANS_PER_PATIENT, resamples, sample)
        tallies["wilson over scans"].add(wilson(total, n))
        tallies["wilson over patients"].add(wilson(found.value * size, size))
        tallies["cluster percentile"].add(percentile_interval(found.draws))
        tallies["cluster BCa"].add(bca_interval(found.value, found.draws, found.jackknife))
        hit = (np.arange(SCANS_PER_PATIENT)[:, None] < of_patient).ravel()
        trials = effective_trials(hit, everyone, patients)
        tallies["Korn-Graubard, as printed"].add(clopper_pearson(found.value * trials, trials))
    yield from ((kind, tally.cell()) for kind, tally in tallies.items())


def _resampled_mean(values: NDArray[np.float64], resamples: int, seed: int) -> Resampled:
    bootstrap = _bootstrap(len(values), resamples, seed)

    def mean(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return weights @ values / weights.sum(axis=1)

    return Resampled(float(values.mean()), bootstrap.distribution(mean), bootstrap.jackknife(mean))


@functools.cache
def _patients(size: int) -> tuple[str, ...]:
    return tuple(f"p{i:04d}" for i in range(size))


def _bootstrap(size: int, resamples: int, seed: int) -> PatientBootstrap:
    return PatientBootstrap(_patients(size), resamples, seed)


def aucs(size: int, truth: float, samples: int, resamples: int, seed: int) -> Iterator[tuple[str, str]]:
    """One scan per patient, half of them cases."""
    yield from _aucs_of(np.arange(size) % 2 == 0, truth, samples, resamples, [seed, size, round(1000 * truth), 7])


def rare_aucs(size: int, truth: float, samples: int, resamples: int, seed: int) -> Iterator[tuple[str, str]]:
    """One scan per patient, a tenth of them cases, at least four."""
    known = np.arange(size) < max(4, size // 10)
    yield from _aucs_of(known, truth, samples, resamples, [seed, size, round(1000 * truth), 17])


def _aucs_of(
    known: NDArray[np.bool_], truth: float, samples: int, resamples: int, seed: list[int]
) -> Iterator[tuple[str, str]]:
    rng, size = np.random.default_rng(seed), len(known)
    scores = rng.normal(size=(samples, size)) + known * np.sqrt(2) * norm.ppf(truth)
    kinds = (
        "DeLong, plain",
        "DeLong, logit",
        "Newcombe",
        "as printed",
        "bootstrap percentile",
        "bootstrap BCa",
    )
    tallies = {kind: Tally(truth) for kind in kinds}
    for sample, score in enumerate(scores):
        for kind, interval in _auc_intervals(known, score, resamples, sample).items():
            tallies[kind].add(interval)
    yield from ((kind, tally.cell()) for kind, tally in tallies.items())


def _auc_intervals(
    known: NDArray[np.bool_], score: NDArray[np.float64], resamples: int, seed: int
) -> dict[str, Interval | None]:
    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return weighted_auc(known, score, weights)

    bootstrap = _bootstrap(len(score), resamples, seed)
    value = float(statistic(np.ones((1, len(score))))[0])
    draws = bootstrap.distribution(statistic)
    half, by_score = _delong_half(known, score), newcombe(value, int(known.sum()), int((~known).sum()))
    assert by_score is not None
    by_variance = auc_interval(known, score, bootstrap.patients) or by_score
    return {
        "DeLong, plain": (value - half, value + half),
        "DeLong, logit": _on_logit(value, half),
        "Newcombe": by_score,
        "as printed": (min(by_variance[0], by_score[0]), max(by_variance[1], by_score[1])),
        "bootstrap percentile": percentile_interval(draws),
        "bootstrap BCa": bca_interval(value, draws, bootstrap.jackknife(statistic)),
    }


def _delong_half(known: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    table, both = np.column_stack([~known, known]), np.column_stack([-score, score])
    found = delong(table, both, np.zeros_like(both), multilabel=False)
    assert found is not None
    return float(norm.ppf(0.975) * np.sqrt(found.variance))


def _on_logit(value: float, half: float) -> Interval | None:
    if not 0 < value < 1 or not half:
        return None
    reach = half / (value * (1 - value))
    return float(expit(logit(value) - reach)), float(expit(logit(value) + reach))


def sensitivity_differences(
    size: int, truth: float, samples: int, resamples: int, seed: int
) -> Iterator[tuple[str, str]]:
    """Two models on the same cases; one is worse than the other by exactly the margin."""
    rng = np.random.default_rng([seed, size, round(1000 * truth), 11])
    shared, own = rng.normal(size=(samples, size)), rng.normal(size=(2, samples, size))
    latent = np.sqrt(CORRELATION) * shared + np.sqrt(1 - CORRELATION) * own
    reference, worse = (latent[k] < norm.ppf(rate) for k, rate in enumerate((truth, truth - MARGIN)))
    found = [_resampled_mean(one, resamples, sample) for sample, one in enumerate(worse.astype(float) - reference)]
    percentiles = [None if one.degenerate else percentile_interval(one.draws) for one in found]
    cells = (worse & reference, worse & ~reference, ~worse & reference, ~worse & ~reference)
    scores = [newcombe_paired(*map(int, of_sample)) for of_sample in np.stack([cell.sum(axis=1) for cell in cells], 1)]
    yield "Newcombe for pairs, as printed", _tally(-MARGIN, scores).cell()
    yield "percentile", _tally(-MARGIN, percentiles).cell()
    yield "falsely non-inferior, as printed", _false_alarms(scores)
    yield "falsely non-inferior, percentile", _false_alarms(percentiles)


def auc_differences(size: int, truth: float, samples: int, resamples: int, seed: int) -> Iterator[tuple[str, str]]:
    """Two models on the same patients, half of them cases; one is worse by exactly the margin."""
    rng = np.random.default_rng([seed, size, round(1000 * truth), 13])
    known = np.arange(size) % 2 == 0
    table = np.column_stack([~known, known])
    shared, own = rng.normal(size=(samples, size)), rng.normal(size=(2, samples, size))
    latent = np.sqrt(CORRELATION) * shared + np.sqrt(1 - CORRELATION) * own
    reference, worse = (
        latent[k] + known * np.sqrt(2) * norm.ppf(area) for k, area in enumerate((truth, truth - MARGIN))
    )
    percentiles, by_variance = [], []
    for sample, (first, second) in enumerate(zip(worse, reference, strict=True)):
        draws = _bootstrap(size, resamples, sample).distribution(
            lambda weights, pair=(first, second): (
                weighted_auc(known, pair[0], weights) - weighted_auc(known, pair[1], weights)
            )
        )
        percentiles.append(None if is_degenerate(draws) else percentile_interval(draws))
        found = delong(table, *(np.column_stack([-one, one]) for one in (first, second)), multilabel=False)
        half = norm.ppf(0.975) * np.sqrt(found.variance) if found else 0.0
        by_variance.append((found.value - half, found.value + half) if found and half else None)
    yield "percentile", _tally(-MARGIN, percentiles).cell()
    yield "DeLong", _tally(-MARGIN, by_variance).cell()
    yield "falsely non-inferior, percentile", _false_alarms(percentiles)
    yield "falsely non-inferior, DeLong", _false_alarms(by_variance)


def _false_alarms(intervals: Iterable[Interval | None]) -> str:
    """Share of samples, in percent, in which a model that is worse by the margin is called non-inferior."""
    called = [interval is not None and interval[0] > -MARGIN for interval in intervals]
    return f"{100 * np.mean(called):.1f}"


def _tally(truth: float, intervals: Iterable[Interval | None]) -> Tally:
    tally = Tally(truth)
    for interval in intervals:
        tally.add(interval)
    return tally


PARTS = {
    "A proportion, one scan a patient": (proportions, "rate"),
    f"A proportion, {SCANS_PER_PATIENT} scans a patient, correlation {CORRELATION} within a patient": (
        clustered_proportions,
        "rate",
    ),
    "An AUC, half of the patients are cases": (aucs, "AUC"),
    f"Two sensitivities on the same cases, {MARGIN:g} apart, latent correlation {CORRELATION}": (
        sensitivity_differences,
        "sensitivity of the better",
    ),
    f"Two AUCs on the same patients, {MARGIN:g} apart, correlation {CORRELATION} within cases and others": (
        auc_differences,
        "AUC of the better",
    ),
    "An AUC, a tenth of the patients are cases, at least four": (rare_aucs, "AUC"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000, help="test sets drawn for each row")
    parser.add_argument("--resamples", type=int, default=2000, help="bootstrap draws per test set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", type=int, nargs="+", default=range(1, 1 + len(PARTS)), help="of the six tables")
    asked = parser.parse_args()
    error = 100 * np.sqrt(0.95 * 0.05 / asked.samples)
    print(
        f"{asked.samples} samples a row (a coverage of 95 % has a Monte Carlo error of {error:.1f}), "
        f"{asked.resamples} bootstrap draws a sample, seed {asked.seed}; nominal 95 %. "
        "Each cell: coverage in % [median width]; after it, where it can be computed, the exact coverage."
    )
    for title, (simulate, measure) in (list(PARTS.items())[part - 1] for part in asked.parts):
        print(f"\n### {title}\n", flush=True)
        for row, (truth, size) in enumerate(itertools.product(TRUTHS, SIZES)):
            cells = dict(simulate(size, truth, asked.samples, asked.resamples, asked.seed))
            if not row:
                _line(f"true {measure}", "patients", *cells)
                _line(*["---"] * (2 + len(cells)))
            _line(f"{truth:g}", str(size), *cells.values())


def _line(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
