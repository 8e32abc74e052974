"""What may make the figures look better than they are, or hide whom the network fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from med_transfer.metrics.records.decisions import AccessCounts
from med_transfer.metrics.records.domain import Domain, Overlap
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.metrics.records.metrics import Metrics
from med_transfer.metrics.records.shortcuts import ACQUISITION_BASELINE, above_chance
from med_transfer.metrics.records.subgroups import Subgroup
from med_transfer.page import ENGLISH, Translator
from med_transfer.report.acquisition_name import acquisition_name
from med_transfer.report.evidence import Evidence
from med_transfer.report.numbers import decimal, decimal_interval, difference, percent, percent_interval
from med_transfer.report.sections.first_screen_notices import FITTED_WITHIN, Notice
from med_transfer.report.subgroup_name import subgroup_name
from med_transfer.report.test_access import decided_before, times_read

_SubgroupValue = tuple[str, Estimate]  # a subgroup's name, and a measure of it


def trust_notices(evidence: Evidence, t: Translator = ENGLISH) -> list[Notice]:
    """In the order of reading: test-set access, distance from training, shortcuts, subgroups that differ."""
    metrics = evidence.metrics
    candidates = [
        _test_set_access(metrics.test_set_access, t),
        _domain(metrics.domain, t),
        _shortcut(metrics, t(evidence.model), t),
        *_subgroups(metrics, t),
    ]
    return [notice for notice in candidates if notice is not None]


def overlap_notices(overlap: Overlap | None, t: Translator = ENGLISH) -> list[Notice]:
    """Scans that were seen in training, which no other caution outweighs."""
    if overlap is None or not overlap.seen_scans:
        return []
    title = t(
        "{seen} of {n} scans were seen in training: these figures do not describe new patients",
        seen=overlap.seen_scans,
        n=overlap.n_scans,
    )
    text = t("They come from {seen} of the {n} patients.", seen=overlap.seen_patients, n=overlap.n_patients)
    if overlap.seen_by_source:
        text += " " + t("{n} of them were used to train or pretrain the source network.", n=overlap.seen_by_source)
    return [Notice("warning", title, text)]


def _test_set_access(access: AccessCounts | None, t: Translator) -> Notice | None:
    if access is None or access.n == 1:
        return None
    before = decided_before(access, t)
    text = t(
        "{before}. If anything was chosen or changed after these scans had been looked at, their figures are no "
        "longer an independent test. See docs/operating_points.md.",
        before=before[:1].upper() + before[1:],
    )
    return Notice("warning", times_read(access, t), text)


def _domain(domain: Domain | None, t: Translator) -> Notice | None:
    if domain is None:
        return None
    text = t(
        "{novel} of the scans (95 % CI {interval}) are out-of-distribution (novelty above that of 95 % of held-out "
        "scans), where 5 % are expected by chance; {outside} have a spacing outside the training range.",
        novel=percent(domain.out_of_distribution),
        interval=percent_interval(domain.out_of_distribution.interval, t),
        outside=percent(domain.outside_envelope),
    )
    if domain.far:
        return Notice("warning", t("This cohort lies far from the training cohort"), text)
    return Notice("neutral", t("This cohort is not shown to lie far from the training cohort"), text)


def _shortcut(metrics: Metrics, model: str, t: Translator) -> Notice | None:
    """Warn where the label can be told from the acquisition, whether or not the network does so."""
    acquisition, shortcuts = metrics.baselines.get(ACQUISITION_BASELINE), metrics.shortcuts
    if acquisition is None or shortcuts is None or not above_chance(acquisition.macro_auc):
        return None
    text = t(
        "From acquisition parameters alone, a small model reaches a macro AUC of {auc} (95 % CI {interval}) on these "
        "scans. Strongest: {facts}. The {model}'s lead over it is {gain}. The network may have learned how scans of "
        "each class were acquired: evaluate it on scans in which class and acquisition are unrelated. See "
        "docs/subgroups.md.",
        model=model,
        auc=decimal(acquisition.macro_auc),
        interval=decimal_interval(acquisition.macro_auc.ci95, t),
        facts=t(", ").join(acquisition_name(name, t) for name in shortcuts.strongest),
        gain=difference(acquisition.macro_auc_gain, t),
    )
    within = f" {t(FITTED_WITHIN)}" if metrics.external else ""
    return Notice("warning", t("How the scans were acquired gives the label away"), f"{text}{within}")


def _subgroups(metrics: Metrics, t: Translator) -> list[Notice]:
    notices = []
    for column, test in metrics.subgroup_tests.items():
        compared = {name: group for name, group in metrics.subgroups.get(column, {}).items() if name in test.compared}
        if not test.differ or not compared:
            continue
        p, extremes = f"{test.p_holm:.2g}", _extremes(compared, t)
        text = t("No class has a sensitivity in more than one of them; p = {p}, corrected for all columns.", p=p)
        if extremes is not None:
            measure, worst, best = extremes
            text = t(
                "{measure} ranges from {low} ({worst}) to {high} ({best}); p = {p}, corrected for all columns.",
                measure=measure,
                low=percent(worst[1]),
                worst=subgroup_name(worst[0], t),
                high=percent(best[1]),
                best=subgroup_name(best[0], t),
                p=p,
            )
        notices.append(Notice("warning", t("Performance differs between subgroups of {column}", column=column), text))
    return notices


def _extremes(groups: Mapping[str, Subgroup], t: Translator) -> tuple[str, _SubgroupValue, _SubgroupValue] | None:
    """The measure that shows how far subgroups differ, and the lowest and highest of them.

    Balanced accuracy is a mean over the classes that a subgroup has: where one lacks a class it is another figure, and
    the class whose sensitivity differs most is shown instead. None where no class is in two of them, as a finding need
    not be: then it is its specificity that differs.
    """
    balanced = [(name, group.balanced_accuracy) for name, group in groups.items()]
    by_class = {
        name: [
            (of, group.sensitivity[name]) for of, group in groups.items() if group.sensitivity[name].value is not None
        ]
        for name in next(iter(groups.values())).sensitivity
    }
    if all(len(of_class) == len(groups) for of_class in by_class.values()):
        return t("Balanced accuracy"), *_lowest_and_highest(balanced)
    name = max(by_class, key=lambda name: _width(by_class[name]))
    if len(by_class[name]) < 2:
        return None
    return t("Sensitivity, {name}", name=name), *_lowest_and_highest(by_class[name])


def _lowest_and_highest(measured: Sequence[_SubgroupValue]) -> tuple[_SubgroupValue, _SubgroupValue]:
    low, *_, high = sorted(measured, key=lambda pair: pair[1].value or 0.0)
    return low, high


def _width(measured: Sequence[_SubgroupValue]) -> float:
    values = [estimate.value or 0.0 for _, estimate in measured]
    return max(values, default=0.0) - min(values, default=0.0)
