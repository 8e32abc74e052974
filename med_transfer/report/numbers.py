"""Numbers as the report writes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from med_transfer.errors.numbers import rounded, whole_percent, with_minus_sign
from med_transfer.metrics.config import BinomialMethod
from med_transfer.metrics.records.estimate import Estimate, Interval
from med_transfer.page import Translator, sentence

INTERVALS: Mapping[BinomialMethod, str] = {
    "wilson": sentence("Wilson score interval"),
    "clopper-pearson": sentence("Clopper-Pearson exact interval"),
    "jeffreys": sentence("Jeffreys interval"),
}


def percent(estimate: Estimate) -> str:
    """For example ``83.3 %``; a dash when undefined."""
    return "–" if estimate.value is None else tenths(estimate.value)


def tenths(share: float) -> str:
    """For example ``83.3 %``; what is nearly all is not written as all, nor what is nearly none as none."""
    percent = round(100 * share, 1)
    if percent in (0.0, 100.0) and not math.isclose(100 * share, percent, abs_tol=1e-9):
        percent = min(max(percent, 0.1), 99.9)
    return f"{percent:.1f} %"


def whole(share: float) -> str:
    """For example ``83 %``, and ``99.8 %`` as :func:`tenths` writes it: nearly all is not all."""
    return whole_percent(share).replace("%", " %")


def decimal(estimate: Estimate) -> str:
    """For example ``0.873``; a dash when undefined."""
    return "–" if estimate.value is None else written(estimate.value)


def ratio(estimate: Estimate) -> str:
    """A likelihood ratio, for example ``6.46``; a dash when undefined."""
    return "–" if estimate.value is None else rounded(estimate.value, 2)


def signed(estimate: Estimate) -> str:
    """A difference, for example ``+0.081``; a dash when undefined."""
    return "–" if estimate.value is None else _sign(estimate.value)


def percent_interval(interval: Interval | None, t: Translator) -> str:
    """For example ``66.4 to 92.7``, in percent; empty when there is none."""
    return _span(interval, lambda limit: tenths(limit).removesuffix(" %"), t)


def decimal_interval(interval: Interval | None, t: Translator) -> str:
    """For example ``0.812 to 0.934``."""
    return _span(interval, written, t)


def ratio_interval(interval: Interval | None, t: Translator) -> str:
    """For example ``2.35 to 17.81``."""
    return _span(interval, lambda limit: rounded(limit, 2), t)


def signed_interval(interval: Interval | None, t: Translator) -> str:
    """The interval of a difference, for example ``−0.012 to +0.150``."""
    return _span(interval, _sign, t)


def difference(estimate: Estimate, t: Translator) -> str:
    """A difference and its interval in a sentence, for example ``+0.081 (95 % CI −0.012 to +0.150)``."""
    if estimate.value is None:
        return t("undefined ({reason})", reason=estimate.reason)
    if estimate.ci95 is None:
        return f"{signed(estimate)} ({t.translated(estimate.reason)})"
    return t(
        "{difference} (95 % CI {interval})", difference=signed(estimate), interval=signed_interval(estimate.ci95, t)
    )


def without(absent: Sequence[str], mean: Estimate, t: Translator) -> str:
    """Goes on behind a mean over classes, for example ``; without benign``; empty if it is undefined for none."""
    return t("; without {names}", names=t(", ").join(absent)) if absent and mean.value is not None else ""


def scans(n: int, t: Translator) -> str:
    """For example ``17 scans``."""
    return t("1 scan") if n == 1 else t("{n} scans", n=n)


def validation_scans(n: int, t: Translator) -> str:
    """For example ``17 validation scans``."""
    return t("1 validation scan") if n == 1 else t("{n} validation scans", n=n)


def patients(n: int, t: Translator) -> str:
    """For example ``12 patients``."""
    return t("1 patient") if n == 1 else t("{n} patients", n=n)


def duration(seconds: float) -> str:
    """For example ``12 s``, ``4 min``, ``2 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def written(value: float) -> str:
    """A number with three decimals, for example ``−0.021``."""
    return with_minus_sign(rounded(value, 3))


def _span(interval: Interval | None, shown: Callable[[float], str], t: Translator) -> str:
    return "" if interval is None else t("{low} to {high}", low=shown(interval[0]), high=shown(interval[1]))


def _sign(value: float) -> str:
    return with_minus_sign(rounded(value, 3, "+"))
