"""What this many test patients can show, and how many a narrower interval needs."""

from __future__ import annotations

from med_transfer.evaluation.binomial import trials_for_width, wilson, wilson_width
from med_transfer.evaluation.estimate import Record


class SampleSize(Record):
    """Of one rate of one class.

    Attributes:
        n_patients: with the class for a sensitivity, without it for a specificity; scans of a patient count once.
        width: of the 95 % Wilson interval with so many patients.
        wanted_width: that was asked for.
        n_needed: patients for ``wanted_width`` if the rate is what was found.
        n_needed_at_worst: the same if the rate is that value of the present interval which needs most.
        sentence: in words.
    """

    n_patients: int
    width: float
    wanted_width: float
    n_needed: int
    n_needed_at_worst: int
    sentence: str


def sample_size(rate: str, name: str, value: float | None, n_patients: int, wanted_width: float) -> SampleSize | None:
    """For a sensitivity or specificity with ``value`` in [0, 1]; None where there is none.

    The width wanted lies in (0, 1). With several scans a patient the numbers hold as if a patient were called once.
    """
    interval = None if value is None else wilson(value * n_patients, n_patients)
    if value is None or interval is None:
        return None
    worst = min(max(0.5, interval[0]), interval[1])
    width, needed = wilson_width(value, n_patients), trials_for_width(value, wanted_width)
    at_worst = trials_for_width(worst, wanted_width)
    whose = f"with {name}" if rate == "sensitivity" else f"without {name}"
    text = (
        f"{n_patients} patients {whose} give a {rate} of {value:.2f} an interval {width:.2f} wide; "
        f"a width of {wanted_width:g} needs {needed} if it stays at {value:.2f}, "
        f"and up to {at_worst} if it is {worst:.2f}"
    )
    return SampleSize(
        n_patients=n_patients, width=width, wanted_width=wanted_width, n_needed=needed, n_needed_at_worst=at_worst,
        sentence=text,
    )  # fmt: skip
