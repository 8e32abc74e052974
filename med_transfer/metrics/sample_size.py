"""What this many test patients can show, and how many a narrower interval needs."""

from __future__ import annotations

from med_transfer.metrics.binomial import trials_for_width, wilson
from med_transfer.metrics.estimate import Interval, Record


class SampleSize(Record):
    """Of one rate of one class.

    Attributes:
        n_patients: with the class for a sensitivity, without it for a specificity; scans of a patient count once.
        value: of the rate, in [0, 1].
        ci95: its Wilson interval with so many patients.
        wanted_width: that was asked for.
        n_needed: patients for ``wanted_width`` if the rate stays at ``value``.
        worst_value: that value in ``ci95`` which needs most patients.
        n_needed_at_worst: patients for ``wanted_width`` if the rate is ``worst_value``.
        sentence: in words.
    """

    n_patients: int
    value: float
    ci95: Interval
    wanted_width: float
    n_needed: int
    worst_value: float
    n_needed_at_worst: int
    sentence: str

    @property
    def width(self) -> float:
        """Of the interval that there is."""
        return self.ci95[1] - self.ci95[0]


def sample_size(rate: str, name: str, value: float | None, n_patients: int, wanted_width: float) -> SampleSize | None:
    """For a sensitivity or specificity with ``value`` in [0, 1]; None where there is none.

    The width wanted lies in (0, 1). With several scans a patient the numbers hold as if a patient were called once.
    """
    interval = None if value is None else wilson(value * n_patients, n_patients)
    if value is None or interval is None:
        return None
    worst = min(max(0.5, interval[0]), interval[1])
    needed, at_worst = trials_for_width(value, wanted_width), trials_for_width(worst, wanted_width)
    whose = f"labelled {name}" if rate == "sensitivity" else f"not labelled {name}"
    text = (
        f"With {n_patients} patients {whose}, a {rate} of {value:.2f} has an interval of {interval[0]:.2f} to "
        f"{interval[1]:.2f}; for a width of {wanted_width:g} about {needed} are needed if it stays there, and up to "
        f"{at_worst} if it is {worst:.2f}."
    )
    return SampleSize(
        n_patients=n_patients,
        value=value,
        ci95=interval,
        wanted_width=wanted_width,
        n_needed=needed,
        worst_value=worst,
        n_needed_at_worst=at_worst,
        sentence=text,
    )
