"""What a run knows of the items of reporting guidelines. None where it knows nothing: never a guess."""

from __future__ import annotations

from collections.abc import Callable

from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.numbers import patients, percent, percent_interval, scans, whole
from med_transfer.report.run_summary import translated_value

Answer = Callable[[Evidence, Translator], str | None]


def _rows(*names: str) -> Answer:
    """Rows of the model card or of the configuration whose name begins so; they say themselves what they are."""

    def answer(evidence: Evidence, t: Translator) -> str | None:
        rows = [*evidence.run.model_card, *evidence.run.config]
        chosen = [(name, value) for name, value in rows if name.startswith(names)]
        facts = (f"{t.template(name)}: {translated_value(value, t)}" for name, value in chosen)
        return "; ".join(dict.fromkeys(facts)) or None  # some rows are in both

    return answer


def _always(text: Callable[[Translator], str]) -> Answer:
    """What holds for every run, because the program works so."""
    return lambda evidence, t: text(t)


def _trained(evidence: Evidence) -> bool:
    """Whether this is the report of a training run, not of a finished bundle on another cohort."""
    return evidence.run.flow is not None and "train" in evidence.run.flow.parts


def _question(evidence: Evidence, t: Translator) -> str:
    return t.translated(evidence.run.question)


def _categories(evidence: Evidence, t: Translator) -> str:
    metrics = evidence.metrics
    names = t(", ").join(metrics.labels)
    return (
        t("Several findings a scan: {names}", names=names)
        if metrics.multilabel
        else t("One class a scan: {names}", names=names)
    )


def _excluded(evidence: Evidence, t: Translator) -> str:
    return t(
        "Data level: {n} of {asked} scans could not be used; reasons in 'Who was evaluated'",
        n=evidence.metrics.failed.n,
        asked=evidence.n_asked,
    )


def _flow(evidence: Evidence, t: Translator) -> str | None:
    flow = evidence.run.flow
    if flow is None:
        return None
    return t(
        "Diagram in 'Who was evaluated', starting from {scans} of {patients} in the cohort table",
        scans=scans(flow.found.scans, t),
        patients=patients(flow.found.patients, t),
    )


def _software(evidence: Evidence, t: Translator) -> str | None:
    return t(", ").join(f"{name} {version}" for name, version in evidence.run.software.items()) or None


def _division(evidence: Evidence, t: Translator) -> str | None:
    if not _trained(evidence):
        return None
    return t("Split {how}; numbers in 'Who was evaluated'", how=evidence.run.split)


def _disjoint(evidence: Evidence, t: Translator) -> str:
    overlap = evidence.metrics.overlap
    if overlap and overlap.seen_scans:
        return t("Not disjoint: {n} of {all} scans were seen in training", n=overlap.seen_scans, all=overlap.n_scans)
    return t("By patient and by image: a split with a patient or an identical image on both sides is refused")


def _threshold(evidence: Evidence, t: Translator) -> str:
    point, chosen = evidence.metrics.operating_point, evidence.metrics.chosen_point
    how = t("by a rule fixed before training") if point.chosen_on == "fixed" else t("chosen on validation scans")
    aim = f" ({t.translated(chosen.aim)})" if chosen and point.chosen_on == "validation" else ""
    return t("A scan is called {rule}, {how}{aim}", rule=point, how=how, aim=aim)


def _blinded(evidence: Evidence, t: Translator) -> str:
    fusion = evidence.metrics.fusion
    if fusion and fusion.columns and fusion.report == "fused":
        return t("The program read the scans and {columns}, but no labels", columns=t(", ").join(fusion.columns))
    return t("The program read only the scans, and no labels")


def _statistics(evidence: Evidence, t: Translator) -> str:
    drawn = evidence.metrics.bootstrap
    return t("'Methods' on this page; bootstrap over patients, {n} draws, seed {seed}", n=drawn.n_boot, seed=drawn.seed)


def _missing(evidence: Evidence, t: Translator) -> str:
    excluded = scans(evidence.metrics.failed.n, t)
    return t("Excluded from all rates without a prediction: {scans}; no labels or images were imputed", scans=excluded)


def _subgroups(evidence: Evidence, t: Translator) -> str | None:
    if not evidence.metrics.subgroups:
        return None
    return t("'Subgroups' on this page, by {columns}", columns=t(", ").join(evidence.metrics.subgroups))


def _sample_size(evidence: Evidence, t: Translator) -> str:
    metrics = evidence.metrics
    return t(
        "Not planned by the program. Evaluated: {scans} of {patients}; the intervals show the resulting precision",
        scans=scans(metrics.n_scans, t),
        patients=patients(metrics.n_patients, t),
    )


def _errors(evidence: Evidence, t: Translator) -> str | None:
    shown = [t("'Misses and confident errors'")] if evidence.misses else []
    shown += [t("'Subgroups', with a test for differences")] if evidence.metrics.subgroup_tests else []
    shown += [t("'Shortcuts'")] if evidence.metrics.shortcuts else []
    return "; ".join(shown) or None


def _failures(evidence: Evidence, t: Translator) -> str | None:
    if not evidence.misses:
        return None
    return t("{n} wrong calls with pictures in 'Misses and confident errors'", n=len(evidence.misses))


def _prevalence(evidence: Evidence, t: Translator) -> str:
    shares = evidence.metrics.prevalence.items()
    return t(
        "Among the evaluated scans: {shares}", shares=t(", ").join(f"{name} {whole(share)}" for name, share in shares)
    )


def _external(evidence: Evidence, t: Translator) -> str | None:
    if evidence.metrics.domain is None:
        return None
    return t("Distance from the training cohort, measured on this page")


def _cross_table(evidence: Evidence, t: Translator) -> str:
    if evidence.metrics.multilabel:
        return t("A two-by-two table for each finding on this page")
    return t("'Confusion matrix' on this page")


def _estimates(evidence: Evidence, t: Translator) -> str:
    classes = evidence.metrics.classes.items()
    shown = t(", ").join(
        f"{name} {percent(class_metrics.sensitivity)} [{percent_interval(class_metrics.sensitivity.interval, t)}]"
        if class_metrics.sensitivity.value is not None
        else f"{name} {t('undefined')}"
        for name, class_metrics in classes
    )
    return t("Sensitivity: {shown}. All others in 'Rates by class'", shown=shown)


def _measures(evidence: Evidence, t: Translator) -> str:
    return t("Sensitivity, specificity, predictive values, AUC and calibration, by class; see 'Methods'")


def _performance(evidence: Evidence, t: Translator) -> str:
    within = _subgroups(evidence, t)
    by_class = t("Test scans: 'Rates by class'")
    if evidence.metrics.out_of_fold:
        by_class = t("Out-of-fold scans, none held out for a test: 'Rates by class'")
    return "; ".join([by_class, *([within] if within else [])])


def _selection(evidence: Evidence, t: Translator) -> str | None:
    if not evidence.curves:
        return None
    if all(len(curve.epochs) == 1 for curve in evidence.curves):
        return t("No epoch was chosen, as there was only one")
    best_epochs = t(", ").join(f"{t.translated(curve.name)}: {curve.best_epoch + 1}" for curve in evidence.curves)
    return t(
        "Epoch with the best validation {measure}; kept: {kept}",
        measure=evidence.curves[0].monitored_name,
        kept=best_epochs,
    )


def _internal(evidence: Evidence, t: Translator) -> str | None:
    gap = evidence.metrics.generalisation_gap
    if gap is None or not _trained(evidence):
        return None
    if evidence.metrics.out_of_fold:
        return t("Cross-validated within the cohort, on this page; {gap}", gap=gap.sentence)
    return t("Test scans of the same cohort, on this page; {gap}", gap=gap.sentence)


def _indeterminate(evidence: Evidence, t: Translator) -> str:
    abstained = evidence.metrics.abstained
    if abstained is not None and abstained.n:
        return t(
            "{n} of {scans} predictions abstain; all rates include the calls that the network would have made for them",
            n=abstained.n,
            scans=evidence.metrics.n_scans,
        )
    return t("Every scan that could be read was called; none was left undecided")


def _not_updated(evidence: Evidence, t: Translator) -> str:
    if evidence.metrics.out_of_fold:
        return t(
            "None; each scan was called by networks that were not trained on it, not by the bundle's networks together"
        )
    return t("None: the network that was evaluated is the one in the bundle")


def _numbers(evidence: Evidence, t: Translator) -> str:
    return t("Scans and patients by class and part in 'Who was evaluated'")


def _licence(evidence: Evidence, t: Translator) -> str:
    return t(
        "The run's folder 'bundle' is the complete model; licence of the initial weights: {licence}",
        licence=evidence.run.backbone_licence,
    )


_PREPROCESSING = _rows("Input", "Modality", "Intensities", "Channel ", "Scans repaired")

ANSWERS: dict[str, Answer] = {
    "acquisition": _rows("Modality", "Spacing seen in training"),
    "balance": _rows("Class balance", "Calibration"),
    "blinded": _blinded,
    "categories": _categories,
    "cross_table": _cross_table,
    "disjoint": _disjoint,
    "division": _division,
    "ensemble": _rows("Networks"),
    "errors": _errors,
    "estimates": _estimates,
    "excluded": _excluded,
    "external": _external,
    "failures": _failures,
    "flow": _flow,
    "indeterminate": _indeterminate,
    "initialisation": _rows("Backbone", "Transfer"),
    "intended_use": _rows("Intended use"),
    "internal": _internal,
    "licence": _licence,
    "measures": _measures,
    "missing": _missing,
    "model": _rows("Backbone", "Input", "Networks", "Classes"),
    "not_updated": _not_updated,
    "numbers": _numbers,
    "performance": _performance,
    "poor_input": _always(
        lambda t: t(
            "A scan that cannot be trusted is rejected with a reason; an out-of-distribution scan is marked by its "
            "novelty"
        )
    ),
    "predictions": _always(
        lambda t: t(
            "By 'med-transfer predict' from the folder 'bundle': preprocessing, networks, calibration, threshold"
        )
    ),
    "predictors": _rows("Input", "Fusion"),
    "preprocessing": _PREPROCESSING,
    "prevalence": _prevalence,
    "question": _question,
    "records": _always(lambda t: t("predictions.csv contains the answer for each scan, metrics.json every figure")),
    "sample_size": _sample_size,
    "selection": _selection,
    "software": _software,
    "statistics": _statistics,
    "subgroups": _subgroups,
    "threshold": _threshold,
    "training": _rows("Transfer", "Augmentation", "Class balance", "Early stopping", "Seed"),
}
