"""Write ``compare.html`` (one file, no network access, no scripts), ``compare.md`` and ``compare.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from med_transfer.atomic import write_text
from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.errors.numbers import rounded
from med_transfer.evaluation.comparison.compare import Comparison
from med_transfer.evaluation.comparison.forest import differences, forest
from med_transfer.metrics.paired_tests import PairedTest
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.page import Language, environment
from med_transfer.page.language import ENGLISH, Translator, sentence
from med_transfer.page.markdown import as_text, table
from med_transfer.report.writing import report_translator

SCHEMA = 1
_PAIRINGS = {
    "folds": sentence(
        "{runs}: cross-validated in the reference's folds, so each patient is compared between networks trained on "
        "the same other patients."
    ),
    "folds of shared scans": sentence(
        "{runs}: cross-validated, with the shared scans in the reference's folds. As the scans differ, the networks "
        "compared on a patient were trained on partly different other patients."
    ),
    "first repeat": sentence(
        "{runs}: cross-validated with a different number of repeats from the reference. Differences use the first "
        "repeat of both, in which the shared scans are in the same folds; figures in the table of runs use all repeats."
    ),
    "other folds": sentence(
        "{runs}: cross-validated in different folds from the reference, so part of each difference is due to how the "
        "folds were drawn. Give both runs the same split.seed and split.folds."
    ),
}
_HERE = Path(__file__).parent
_TEMPLATE = "compare.html.jinja"
METHOD = sentence(
    "Differences are the run minus the reference, on the test scans that both predicted, in the same resampled "
    "patients. Intervals are 95 %: for macro AUC, the wider of DeLong's interval and percentiles; for balanced "
    "accuracy, the combined Clopper-Pearson limits of all rates; for sensitivities, Newcombe's score interval for "
    "pairs or, with several scans per patient, the wider of percentiles and Clopper-Pearson limits. They are not "
    "corrected for the number of runs and measures. DeLong's test (macro AUC) and McNemar's exact test (scans called "
    "correctly) are a second opinion, not given where a patient has several scans or a run was cross-validated; their "
    "p values are corrected for the number of runs by Holm's method, separately for each test. An interval that "
    "includes 0 shows no difference, which is not the same as showing that there is none."
)
MARGIN_METHOD = sentence(
    "Non-inferiority: the lower limit of the 95 % interval of the difference lies above minus the margin, a one-sided "
    "test at 2.5 % (Piaggio et al. 2012). It is valid only for a margin, and for one measure, stated before the test "
    "scans were seen; the verdicts are not corrected for the number of measures. In simulations with 20 or 50 "
    "patients, a worse AUC near 1 was called non-inferior in up to 8 % of samples instead of 2.5 %."
)
CHOICE_WARNING = sentence(
    "Picking the run that looks best here is a choice made on test scans: its figure is then too optimistic, and it "
    "must be evaluated on another cohort."
)


def write_comparison(comparisons: Sequence[Comparison], out: Path | str, language: Language = "en") -> None:
    """Write all three files into a folder; the page in ``language``, the others in English.

    Raises:
        FolderInUse: another run is using the folder.
        OutputError: a file cannot be written.
    """
    out = Path(out)
    record = {
        "schema": SCHEMA,
        "runs": [comparison.as_record() for comparison in comparisons],
        "method": method_of(comparisons),
    }
    with sole_writer(out):
        write_text(out / "compare.json", json.dumps(record, indent=2) + "\n")
        write_text(out / "compare.md", as_markdown(comparisons))
        write_text(out / "compare.html", as_page(comparisons, language))


def names_of(comparisons: Sequence[Comparison]) -> list[str]:
    """Return short names of the runs: as few trailing path components as distinguish them."""
    parts = [comparison.run.resolve().parts for comparison in comparisons]
    for depth in range(1, max(map(len, parts))):
        names = ["/".join(path[-depth:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {comparison.run}" for number, comparison in enumerate(comparisons, start=1)]


def method_of(comparisons: Sequence[Comparison], t: Translator = ENGLISH) -> str:
    """Return a description of the statistical methods."""
    return t(METHOD) if comparisons[0].margin is None else f"{t(METHOD)} {t(MARGIN_METHOD)}"


def scans_sentence(comparisons: Sequence[Comparison], t: Translator = ENGLISH) -> str:
    """Return sentences on the scans and folds on which the runs were compared."""
    return " ".join(
        [_scan_sentences(comparisons, t), *_image_sentences(comparisons, t), *_fold_sentences(comparisons, t)]
    )


def _image_sentences(comparisons: Sequence[Comparison], t: Translator) -> list[str]:
    """Sentences on scans that two runs share by name, but not by content."""
    return [
        t(
            "{run}: {n} of the {shared} shared scans have the reference's path and patient, but other voxels. The "
            "difference means nothing unless they show the same patients, for example after other processing.",
            run=name,
            n=comparison.n_other_images,
            shared=comparison.n_shared,
        )
        for name, comparison in zip(names_of(comparisons), comparisons, strict=True)
        if comparison.n_other_images
    ]


def _fold_sentences(comparisons: Sequence[Comparison], t: Translator) -> list[str]:
    """Sentences on whether cross-validated runs share their folds."""
    named = list(zip(names_of(comparisons), comparisons, strict=True))[1:]
    sentences = []
    for pairing, words in _PAIRINGS.items():
        if runs := [name for name, comparison in named if _kind_of_pairing(comparison) == pairing]:
            sentences.append(t(words, runs=t(", ").join(runs)))
    return sentences


def _kind_of_pairing(comparison: Comparison) -> str:
    """Equal folds were only looked for among the shared scans; each run may have learned from further ones."""
    return (
        "folds of shared scans" if comparison.pairing == "folds" and not comparison.same_scans else comparison.pairing
    )


def _scan_sentences(comparisons: Sequence[Comparison], t: Translator) -> str:
    reference, *other_runs = comparisons
    if all(comparison.same_scans for comparison in other_runs):
        return t("All runs were tested on the same {n} scans.", n=reference.n_shared)
    counts = t(", ").join(
        t("{run} {shared} of {n}", run=name, shared=comparison.n_shared, n=comparison.n_reference)
        for name, comparison in zip(names_of(comparisons)[1:], other_runs, strict=True)
    )
    return t(
        "The runs' test scans differ, so each run is compared only on those that it shares with the reference: "
        "{counts} of the reference's scans. Figures in the table of runs are on each run's own test scans.",
        counts=counts,
    )


def as_page(comparisons: Sequence[Comparison], language: Language = "en") -> str:
    """Return the HTML page; equal input gives an equal page."""
    t = report_translator(language).reading(_HERE / "compare")
    page = environment(_HERE, t=t)
    names, margin = names_of(comparisons), comparisons[0].margin
    page.filters |= {"signed": partial(signed_text, t=t, margin=margin), "p": p_text}
    page.filters |= {"two": lambda number: rounded(number, 2)}
    return page.get_template(_TEMPLATE).render(
        runs=list(zip(names, comparisons, strict=True)),
        classes=list(comparisons[0].metrics.labels),
        forest=forest(comparisons, names, t),
        scans=scans_sentence(comparisons, t),
        method=method_of(comparisons, t),
        intervals=interval_sentences(comparisons, t),
        verdicts=verdicts(comparisons, t),
        untested=_reason_without_tests(comparisons),
        margin=margin,
        choice_warning=t(CHOICE_WARNING),
    )


def interval_sentences(comparisons: Sequence[Comparison], t: Translator = ENGLISH) -> list[str]:
    """How the intervals were computed: a sentence for all runs, or one for those of each method."""
    runs_of: dict[tuple[str, str], list[str]] = {}
    for name, comparison in list(zip(names_of(comparisons), comparisons, strict=True))[1:]:
        runs_of.setdefault(_interval_methods(comparison), []).append(name)
    if len(runs_of) == 1:
        ((overall, of_class),) = runs_of
        return [t("Intervals: {overall}; sensitivities: {of_class}.", overall=overall, of_class=of_class)]
    return [
        t(
            "Intervals of {runs}: {overall}; sensitivities: {of_class}.",
            runs=t(", ").join(runs),
            overall=overall,
            of_class=of_class,
        )
        for (overall, of_class), runs in runs_of.items()
    ]


def _interval_methods(comparison: Comparison) -> tuple[str, str]:
    overall = comparison.macro_auc.method if comparison.macro_auc else ""
    return overall, next(iter(comparison.sensitivity.values())).method


def _reason_without_tests(comparisons: Sequence[Comparison]) -> str:
    """Why no test has a p-value, if none has and all for the same reason; else empty."""
    tests = [test for comparison in comparisons for test in comparison.tests]
    reasons = {test.reason for test in tests}
    return reasons.pop() if len(reasons) == 1 and all(test.p_value is None for test in tests) else ""


def as_markdown(comparisons: Sequence[Comparison]) -> str:
    """Return runs, differences and tests as Markdown."""
    names, classes = names_of(comparisons), comparisons[0].metrics.labels
    runs: list[tuple[str, ...]] = [
        ("run", "test scans", "macro AUC", "balanced accuracy", *(f"sensitivity {name}" for name in classes))
    ]
    for name, comparison in zip(names, comparisons, strict=True):
        metrics = comparison.metrics
        figures = [metrics.macro_auc, metrics.balanced_accuracy, *(metrics.classes[c].sensitivity for c in classes)]
        runs.append((name, str(metrics.n_scans), *map(estimate_text, figures)))
    rows = [("run minus " + names[0], "shared scans", "measure", "difference")]
    tests = [("run", "test", "p", "p, Holm", "from")]
    for name, comparison in list(zip(names, comparisons, strict=True))[1:]:
        rows += [
            (name, str(comparison.n_shared), measure, signed_text(difference, margin=comparison.margin))
            for measure, difference in differences(comparison).items()
        ]
        tests += [_test_row(name, test) for test in comparison.tests]
    margin = comparisons[0].margin
    held = [("run", "measure", "difference", "verdict"), *verdicts(comparisons)]
    parts = [
        "# Runs side by side",
        f"Reference: {as_text(names[0])}. {scans_sentence(comparisons)}",
        table(runs),
        "## Differences",
        table(rows),
        *([] if margin is None else [f"## Non-inferiority with a margin of {margin:g}", table(held)]),
        "## Second opinion",
        table(tests),
        method_of(comparisons),
        f"> {CHOICE_WARNING}",
    ]
    return "\n\n".join(parts) + "\n"


def verdicts(comparisons: Sequence[Comparison], t: Translator = ENGLISH) -> list[tuple[str, str, str, str]]:
    """Return rows of run, measure, difference and non-inferiority verdict; empty without a margin."""
    return [
        (name, measure, signed_text(difference, t, comparison.margin), t.translated(verdict.sentence))
        for name, comparison in list(zip(names_of(comparisons), comparisons, strict=True))[1:]
        for measure, difference in differences(comparison, t).items()
        if (verdict := comparison.held_to_margin(difference)) is not None
    ]


def _test_row(name: str, test: PairedTest) -> tuple[str, ...]:
    return (name, test.method, p_text(test.p_value), p_text(test.p_holm), test.found or test.reason)


def estimate_text(estimate: Estimate) -> str:
    """Format an estimate, for example ``0.87 (0.79 to 0.93)``."""
    if estimate.value is None:
        return "undefined"
    limits = " to ".join(rounded(limit, 2) for limit in estimate.interval or ())
    return rounded(estimate.value, 2) + (f" ({limits})" if limits else "")


def signed_text(estimate: Estimate, t: Translator = ENGLISH, margin: float | None = None) -> str:
    """Format a difference, for example ``+0.03 (-0.02 to +0.08)``.

    It has enough decimals to be distinguished from 0 and from minus the margin.
    """
    if estimate.value is None:
        return t("undefined")
    of = (-1.0, 0.0, 1.0) if margin is None else (-1.0, -margin, 0.0, 1.0)
    limits = [rounded(limit, 2, "+", of) for limit in estimate.ci95 or ()]
    interval = t("{low} to {high}", low=limits[0], high=limits[1]) if limits else t("no interval")
    return f"{rounded(estimate.value, 2, '+', of)} ({interval})"


def p_text(p: float | None) -> str:
    """Format a p-value with three decimals; a dash if there is no test."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
