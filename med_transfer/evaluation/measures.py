"""The measures of one model on one set of scans, each with its interval."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from med_transfer.evaluation.auc import auc, class_aucs, weighted_macro_auc
from med_transfer.evaluation.calibration import (
    N_BINS,
    Calibration,
    brier_by_scan,
    claims,
    expected_calibration_error,
    reliability,
)
from med_transfer.evaluation.estimate import Estimate, Interval
from med_transfer.evaluation.intervals import (
    PatientBootstrap,
    is_degenerate,
    newcombe,
    percentile_interval,
    wilson,
)
from med_transfer.evaluation.metrics import ClassMetrics
from med_transfer.evaluation.rates import RATES, count, rate_of, share, weighted_balanced_accuracy, weighted_rates
from med_transfer.evaluation.scored import ScoredScans

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_UNDEFINED_RATE = {
    "sensitivity": "no scan of class {name} among the test scans",
    "specificity": "no scan of another class than {name} among the test scans",
    "ppv": "no test scan was called {name}",
    "npv": "every test scan was called {name}",
}
_TOO_FEW_DRAWS = "no interval: some class is missing from most resamples, there are too few patients"


def class_metrics(scored: ScoredScans, bootstrap: PatientBootstrap) -> dict[str, ClassMetrics]:
    """Rates at the operating point and the AUC of every class."""
    rate_draws, auc_draws = _draws_by_class(scored, bootstrap)
    return {
        name: ClassMetrics(
            n=int(scored.truth[:, c].sum()),
            n_patients=scored.patients_among(scored.truth[:, c]),
            counts=count(scored.truth[:, c], scored.predicted[:, c]),
            auc=_class_auc(scored, c, auc_draws[:, c], bootstrap),
            **{rate: _rate(scored, rate, c, draws[:, c], bootstrap) for rate, draws in rate_draws.items()},
        )
        for c, name in enumerate(scored.labels.names)
    }


def _draws_by_class(
    scored: ScoredScans, bootstrap: PatientBootstrap
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """Resampled rates (name to [draw, class]) and AUCs ([draw, class]), from the same draws."""

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        rates = weighted_rates(scored.truth, scored.predicted, weights)
        return np.stack([*rates.values(), class_aucs(scored.truth, scored.probabilities, weights)], axis=1)

    draws = bootstrap.distribution(statistic)
    return {name: draws[:, row] for row, name in enumerate(RATES)}, draws[:, len(RATES)]


def _rate(scored: ScoredScans, rate: str, c: int, draws: NDArray[np.float64], bootstrap: PatientBootstrap) -> Estimate:
    hits, misses = rate_of(rate, count(scored.truth[:, c], scored.predicted[:, c]))
    value, method = share(hits, misses), "Wilson score interval"
    if value is None:
        reason = _UNDEFINED_RATE[rate].format(name=scored.labels.names[c])
        return Estimate(value=None, ci95=None, method=method, reason=reason)
    cluster = None
    if scored.clustered:
        method += f" over scans as if independent; ci95_cluster: {bootstrap}"
        among = {"sensitivity": scored.truth, "specificity": ~scored.truth}
        among |= {"ppv": scored.predicted, "npv": ~scored.predicted}
        cluster = percentile_interval(draws)
        if is_degenerate(draws):  # all right or all wrong: as many independent trials as there are patients
            patients = scored.patients_among(among[rate][:, c])
            cluster = wilson(value * patients, patients)
            method += ", replaced by Wilson over patients because every draw agrees"
    return Estimate(value=value, ci95=wilson(hits, hits + misses), ci95_cluster=cluster, method=method)


def _auc_bound(scored: ScoredScans, c: int) -> Interval | None:
    """Interval of one class's AUC that does not resample; a patient counts once however many scans he has."""
    value = auc(scored.truth[:, c], scored.probabilities[:, c])
    if value is None:
        return None
    if np.ptp(scored.probabilities[:, c]) == 0:  # one answer for all scans: 0.5 in any sample
        return value, value
    cases, others = scored.patients_among(scored.truth[:, c]), scored.patients_among(~scored.truth[:, c])
    return newcombe(value, cases, others)


def _class_auc(scored: ScoredScans, c: int, draws: NDArray[np.float64], bootstrap: PatientBootstrap) -> Estimate:
    value = auc(scored.truth[:, c], scored.probabilities[:, c])
    if value is None:
        lacking = "specificity" if scored.truth[:, c].any() else "sensitivity"  # undefined for the same reason
        reason = _UNDEFINED_RATE[lacking].format(name=scored.labels.names[c])
        return Estimate(value=None, ci95=None, method="one against the rest", reason=reason)
    return _resampled(value, draws, "one against the rest", _auc_bound(scored, c), "Newcombe's score method", bootstrap)


def balanced_accuracy(scored: ScoredScans, bootstrap: PatientBootstrap) -> Estimate:
    """Mean sensitivity of the classes (for findings: of sensitivity and specificity), see ``rates``."""
    multilabel = scored.labels.multilabel

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return weighted_balanced_accuracy(scored.truth, scored.predicted, weights, multilabel=multilabel)

    what = "mean of the classes' sensitivities"
    if multilabel:
        what = "mean over findings of (sensitivity + specificity) / 2"
    value = _value(statistic, scored)
    if value is None:
        return Estimate(value=None, ci95=None, method=what, reason="no class has both cases and other scans")
    draws = bootstrap.distribution(statistic)
    return _resampled(
        value, draws, what + _left_out(scored), _balanced_bound(scored, value), "the mean of Wilson limits", bootstrap
    )


def _balanced_bound(scored: ScoredScans, value: float) -> Interval | None:
    """Mean of the Wilson limits of the rates that make up the balanced accuracy; patients count once."""
    if (scored.predicted == scored.predicted[0]).all():  # one answer for all scans: the same in any sample
        return value, value
    limits = []
    for c in np.flatnonzero(_defined(scored)):
        groups = [scored.truth[:, c], ~scored.truth[:, c]] if scored.labels.multilabel else [scored.truth[:, c]]
        for among in groups:
            right = (scored.truth[:, c] == scored.predicted[:, c])[among].mean()
            patients = scored.patients_among(among)
            limits.append(wilson(right * patients, patients))
    return _mean_interval(limits)


def macro_auc(scored: ScoredScans, bootstrap: PatientBootstrap) -> Estimate:
    """Mean AUC over the classes that have one."""

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return weighted_macro_auc(scored.truth, scored.probabilities, weights)

    what = "mean of the classes' one-against-the-rest AUCs"
    value = _value(statistic, scored)
    if value is None:
        return Estimate(value=None, ci95=None, method=what, reason="no class has both cases and other scans")
    bounds = [_auc_bound(scored, c) for c in range(len(scored.labels))]
    bound = _mean_interval([b for b in bounds if b is not None])
    draws = bootstrap.distribution(statistic)
    return _resampled(value, draws, what + _left_out(scored), bound, "the mean of Newcombe's limits", bootstrap)


def brier(scored: ScoredScans, bootstrap: PatientBootstrap) -> Estimate:
    """Brier score, see ``calibration.brier_by_scan``."""
    by_scan = brier_by_scan(scored.truth, scored.probabilities, multilabel=scored.labels.multilabel)
    draws = bootstrap.distribution(lambda weights: weights @ by_scan / weights.sum(axis=1))
    what = "mean over findings" if scored.labels.multilabel else "half the sum over classes"
    return Estimate(value=float(by_scan.mean()), ci95=percentile_interval(draws), method=f"{what}; {bootstrap}")


def calibration(scored: ScoredScans, bootstrap: PatientBootstrap) -> Calibration:
    """Brier score, expected calibration error and the reliability diagram."""
    multilabel = scored.labels.multilabel
    bins = reliability(*claims(scored.truth, scored.probabilities, multilabel=multilabel))
    of = "all findings" if multilabel else "the most probable class"
    ece = Estimate(
        value=expected_calibration_error(bins),
        ci95=None,
        method=f"probability of {of}, {N_BINS} bins of equal width",
        reason="no interval: resampling makes this measure larger than it is",
    )
    mean = dict(zip(scored.labels.names, scored.probabilities.mean(axis=0).tolist(), strict=True))
    return Calibration(brier=brier(scored, bootstrap), ece=ece, bins=bins, mean_probability=mean)


def confusion_matrix(scored: ScoredScans) -> list[list[int]] | None:
    """Scans by true class (row) and called class (column); None for several findings a scan."""
    if scored.labels.multilabel:
        return None
    return (scored.truth.T.astype(int) @ scored.predicted.astype(int)).tolist()


def _value(statistic: Statistic, scored: ScoredScans) -> float | None:
    value = float(statistic(np.ones((1, len(scored))))[0])
    return value if np.isfinite(value) else None


def _defined(scored: ScoredScans) -> NDArray[np.bool_]:
    cases = scored.truth.sum(axis=0)
    return (cases > 0) & (cases < len(scored)) if scored.labels.multilabel else cases > 0


def _left_out(scored: ScoredScans) -> str:
    absent = [name for name, there in zip(scored.labels.names, _defined(scored), strict=True) if not there]
    return f" (without {', '.join(absent)}: undefined in the test scans)" if absent else ""


def _mean_interval(limits: list[Interval | None]) -> Interval | None:
    known = [limit for limit in limits if limit is not None]
    if not known:
        return None
    low, high = np.mean(known, axis=0)
    return float(low), float(high)


def _resampled(
    value: float,
    draws: NDArray[np.float64],
    what: str,
    bound: Interval | None,
    bound_method: str,
    bootstrap: PatientBootstrap,
) -> Estimate:
    """An estimate with the interval of its draws, or ``bound`` when all draws agree."""
    if is_degenerate(draws):
        constant = bound is not None and bound[0] == bound[1]
        why = "every scan gets the same answer" if constant else "every bootstrap draw agrees"
        method = f"{what}; {'no spread' if constant else bound_method + ' over patients'}, because {why}"
        return Estimate(value=value, ci95=bound, method=method)
    interval = percentile_interval(draws)
    missing = 1 - float(np.isfinite(draws).mean())
    method = f"{what}; {bootstrap}" + (f", {missing:.1%} of draws lacked a class" if missing else "")
    return Estimate(value=value, ci95=interval, method=method, reason="" if interval else _TOO_FEW_DRAWS)
