"""Drift detection: how often an alarm is false, and after how many scans a change is detected, by simulation.

    OMP_NUM_THREADS=1 python benchmarks/drift.py > drift.md

The detectors are those of ``predict --monitor``, at their limit for 14 quantities, so that the probability of a false
alarm of any of them within n scans is at most n / 100,000. Streams:

- novelty, against the ranks of 60 or 200 development scans, for a single network and for five fold models whose ranks
  (correlation 0.6) are averaged; scans are unusual from the first one on, or after 500 normal ones;
- a number of the input, against the scans before: its mean moves by so many standard deviations after 500 scans;
- the share of unusable scans, 2 % before;
- streams that are not exchangeable: three scans per patient that share most of their variance, one after the other; two
  sites, one after the other, within the sorted names of a folder.

The same streams are also run without any change, 1,000 scans each, with the limit lowered to 1 in 1,000 scans for this
quantity alone, so that false alarms can be counted. Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm

from med_transfer.inference.drift.detector import Detector
from med_transfer.inference.drift.state import SCANS_PER_FALSE_ALARM

QUANTITIES, BEFORE, AFTER, QUIET = 14, 500, 400, 1000
LIMIT = float(SCANS_PER_FALSE_ALARM * QUANTITIES)
RANKS, NUMBERS = [(n + 0.5) / 101 for n in range(101)], np.linspace(-4, 4, 49).tolist()
Values = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, float], Values]


@dataclass(frozen=True)
class Quantity:
    """What is drawn, with how many reference scans, and how it is monitored."""

    name: str
    draw: Draw
    edges: list[float]
    reference: int = 0
    two_sided: bool = False

    def detector(self, limit: float) -> Detector:
        ranks = [np.ceil(100 * (n + 0.5) / self.reference) / 101 for n in range(self.reference)]
        return Detector.of(self.edges, ranks, two_sided=self.two_sided, limit=limit)


def novelty(fold_models: int) -> Draw:
    def draw(rng: np.random.Generator, n: int, shift: float) -> Values:
        shared, own = rng.normal(size=(n, 1)), rng.normal(size=(n, fold_models))
        mixed = np.sqrt(0.6) * shared + np.sqrt(0.4) * own if fold_models > 1 else shared
        return (np.ceil(100 * norm.cdf(mixed + shift)) / 101).mean(axis=1)

    return draw


def number(rng: np.random.Generator, n: int, shift: float) -> Values:
    return rng.normal(shift, 1.0, n)


def unusable(rng: np.random.Generator, n: int, shift: float) -> Values:
    return (rng.random(n) < 0.02 + shift).astype(float)


def alike(rng: np.random.Generator, n: int, _: float) -> Values:
    patients = np.repeat(rng.normal(size=n // 3 + 1), 3)[:n]
    return np.sqrt(0.75) * patients + np.sqrt(0.25) * rng.normal(size=n)


def by_site(rng: np.random.Generator, n: int, _: float) -> Values:
    return rng.normal(np.where(np.arange(n) < n // 2, 0.0, 1.0), 1.0)


def quantities() -> Iterator[tuple[Quantity, tuple[float, ...]]]:
    for reference in (60, 200):
        for models in (1, 5):
            name = f"novelty, {reference} development scans, {models} fold model{'s' if models > 1 else ''}"
            yield Quantity(name, novelty(models), RANKS, reference), (0.5, 1.0, 2.0)
    yield Quantity("a number of the input, standard deviations", number, NUMBERS, two_sided=True), (0.5, 1.0, 2.0)
    yield Quantity("share of scans that cannot be used", unusable, [0.5]), (0.08, 0.18, 0.48)


def first_alarm(detector: Detector, values: Values, seed: int) -> float:
    """Number of values until the first alarm; infinity if there is none."""
    rng = np.random.default_rng(seed)
    return next((n for n, value in enumerate(values, start=1) if detector.add(float(value), rng)), np.inf)


def delay(quantity: Quantity, shift: float, before: int, draws: int) -> str:
    """Share detected, and the median and 90th percentile of the delay in scans."""
    delays = []
    for draw in range(draws):
        rng = np.random.default_rng([draw, before])
        values = np.concatenate([quantity.draw(rng, before, 0.0), quantity.draw(rng, AFTER, shift)])
        delays.append(first_alarm(quantity.detector(LIMIT), values, draw) - before)
    ordered = np.sort(delays)
    median, late = ordered[draws // 2], ordered[int(0.9 * draws)]
    shown = ", ".join("more than 400" if np.isinf(one) else f"{one:.0f}" for one in (median, late))
    return f"{np.mean(np.isfinite(delays)):.0%} | {shown}"


def false_alarms(quantity: Quantity, draws: int, limit: float) -> str:
    """Share of unchanged streams with an alarm, with its 95 % interval (Clopper-Pearson)."""
    raised = 0
    for draw in range(draws):
        values = quantity.draw(np.random.default_rng([draw, 1]), QUIET, 0.0)
        raised += np.isfinite(first_alarm(quantity.detector(limit), values, draw))
    low = beta.ppf(0.025, raised, draws - raised + 1) if raised else 0.0
    high = beta.ppf(0.975, raised + 1, draws - raised) if raised < draws else 1.0
    return f"{raised} of {draws} | {raised / draws:.1%} [{low:.1%}, {high:.1%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=60)
    draws = parser.parse_args().draws
    print("| quantity | shift | after | detected within 400 scans | delay in scans: median, 90 % |")
    print("| -- | -- | -- | -- | -- |")
    for quantity, shifts in quantities():
        for shift in shifts:
            for before in (0, BEFORE) if quantity.reference else (BEFORE,):
                print(
                    f"| {quantity.name} | {shift:g} | {before} | {delay(quantity, shift, before, draws)} |", flush=True
                )
    print(f"\n| quantity, {QUIET} scans without a change | limit | streams with a false alarm | share |")
    print("| -- | -- | -- | -- |")
    against = [quantity for quantity, _ in quantities()]
    broken = [
        Quantity("three scans a patient, alike, one after the other", alike, NUMBERS, two_sided=True),
        Quantity("two sites, one after the other", by_site, NUMBERS, two_sided=True),
    ]
    for limit, said in ((QUIET * 10.0, "at most 10 %"), (LIMIT, "as shipped, at most 0.07 %")):
        for quantity in [*against, *broken]:
            print(f"| {quantity.name} | {said} | {false_alarms(quantity, draws, limit)} |", flush=True)


if __name__ == "__main__":
    main()
