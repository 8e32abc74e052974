"""The bundle's docs/README.md: the model card with intended use, provenance and limits of the model."""

from __future__ import annotations

from med_transfer.bundle import BundleRecord
from med_transfer.cohorts import Cohort
from med_transfer.errors.numbers import rounded
from med_transfer.errors.sentence import Sentence, joined, listed
from med_transfer.page.markdown import as_text, table
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.preprocessing.config import ORGANS


def model_card_rows(record: BundleRecord) -> list[tuple[str, str]]:
    """Return the rows (name, value) of the model card."""
    backbone = record.backbone
    return [
        ("Intended use", record.intended_use),
        ("Classes", _classes(record)),
        ("Operating point", record.operating_point.translated(Sentence)),
        ("Networks", Sentence("{n}, their calibrated probabilities averaged", n=record.n_fold_models)),
        ("Backbone", backbone.sentence),
        *_transfer_rows(record),
        ("Backbone licence", backbone.licence),
        ("Backbone SHA-256", backbone.sha256 or Sentence("none: trained from scratch")),
        ("Input", _input(record.preprocessing)),
        *_channel_rows(record.preprocessing),
        *_spacing_rows(record),
        ("Calibration", _calibration(record)),
        *_set_rows(record),
        *_fusion_rows(record),
        *_similar_rows(record),
        ("Cohort hash", record.trained_on.cohort_hash),
    ]


def model_card(record: BundleRecord, cohort: Cohort) -> str:
    """Return the model card as Markdown, with counts of the cohort and no patient data."""
    counts = [(name, str(scans), str(patients)) for name, (scans, patients) in cohort.counts().items()]
    return (
        f"# Classifier of {as_text(', '.join(record.classes))}\n\n{as_text(record.intended_use)}\n\n"
        f"{table([('', ''), *model_card_rows(record)])}\n\n"
        f"## Cohort\n\n{table([('class', 'scans', 'patients'), *counts])}\n\n"
        "The run's report.html and metrics.json show how well it performs, on whom, and how uncertain that is.\n"
        "Scans that differ from the cohort in spacing, scanner, body part or disease are outside what was tested.\n"
    )


def _classes(record: BundleRecord) -> str:
    names = ", ".join(record.classes)
    return Sentence("{names} (any number of them)", names=names) if record.multilabel else names


def _input(config: PreprocessingConfig) -> str:
    """Shape, and voxel size or how the region is fitted; also the region if it is an organ found in the scan."""
    size = _mm(config.spacing_mm) if config.spacing_mm else Sentence("region fitted ({fit})", fit=config.fit)
    parts = [Sentence("{shape} voxels", shape=" x ".join(map(str, config.shape))), size]
    parts += [Sentence("of the {region}", region=config.region)] if config.region in ORGANS else []
    return Sentence("{input} alone", input=listed(*parts)) if config.isolate else listed(*parts)


def _channel_rows(config: PreprocessingConfig) -> list[tuple[str, str]]:
    """Modality and intensities of the scan, or of each channel."""
    if not config.channels:
        return [("Modality", config.modality or Sentence("not checked")), ("Intensities", intensities(config))]
    channels = zip(config.column_of_channel, config.by_channel, strict=True)
    return [
        (Sentence("Channel {number}", number=number), _channel(column, own))
        for number, (column, own) in enumerate(channels, start=1)
    ]


def _channel(column: str, config: PreprocessingConfig) -> Sentence:
    modality = config.modality or Sentence("any modality")
    values = intensities(config)
    return Sentence("column {column}, {modality}, {values}", column=column, modality=modality, values=values)


def _spacing_rows(record: BundleRecord) -> list[tuple[str, str]]:
    first, rows = record.input_envelope, []
    for column, channel in zip(record.preprocessing.columns, (first, *first.further), strict=False):
        name = Sentence("Spacing seen in training ({column})", column=column)
        low, high = _mm(channel.spacing_mm_low), _mm(channel.spacing_mm_high)
        seen = Sentence("{low} to {high} (column, row, slice)", low=low, high=high)
        rows.append((name if first.further else "Spacing seen in training", seen))
    return rows


def intensities(config: PreprocessingConfig) -> str:
    """Return how intensities are normalised, in words."""
    if config.normalisation == "zscore":
        return Sentence(
            "z-scores of each scan's own foreground, up to {sd:g} standard deviations", sd=float(config.clip_sd or 0)
        )
    low, high = config.window_hu
    if config.modality in ("CT", None):
        return Sentence("window from {low:g} to {high:g} HU", low=low, high=high)
    return Sentence("window from {low:g} to {high:g}, in the unit of the file", low=low, high=high)


def _transfer_rows(record: BundleRecord) -> list[tuple[str, str]]:
    if record.transfer is None:
        return []
    fallback = record.transfer.fallback
    return [("Transfer", record.transfer.sentence), *([("Fallback", fallback)] if fallback else [])]


def _fusion_rows(record: BundleRecord) -> list[tuple[str, str]]:
    """What a fused prediction needs; without these inputs the network predicts alone."""
    if record.fusion is None:
        return []
    inputs, fitted = record.fusion.inputs, record.fusion.combinations[0]
    needed = [Sentence("column {column}", column=column.name) for column in inputs.columns]
    if inputs.handcrafted:
        needed.insert(0, Sentence("handcrafted features ({within})", within=" or ".join(inputs.within)))
    values = {"needed": listed(*needed), "n": fitted.n_scans}
    if record.fusion.method == "mean":
        return [("Fusion", Sentence("network with {needed}; mean with a model of {n} scans", **values))]
    return [
        ("Fusion", Sentence("network with {needed}; regression fitted on out-of-fold outputs of {n} scans", **values))
    ]


def _similar_rows(record: BundleRecord) -> list[tuple[str, str]]:
    """A warning that the bundle contains pictures of patients."""
    if not record.n_similar_cases:
        return []
    return [("Similar cases", Sentence("holds pictures of {n} development scans", n=record.n_similar_cases))]


def _calibration(record: BundleRecord) -> str:
    fitted = record.calibration
    how = Sentence("{how} on {n} validation scans", how=fitted.translated(Sentence), n=fitted.n)
    return joined(how, fitted.note)


def _set_rows(record: BundleRecord) -> list[tuple[str, str]]:
    """The probability from which a class cannot be ruled out."""
    sets = record.prediction_sets
    if sets is None:
        return []
    of_class = zip(record.classes, sets.thresholds, sets.n_patients, strict=True)
    limits = [
        Sentence("{name} {threshold} ({n} patients)", name=name, threshold=rounded(threshold, 3), n=n)
        if threshold
        else Sentence("{name} always ({n} patients)", name=name, n=n)
        for name, threshold, n in of_class
    ]
    in_words = Sentence(
        "coverage {coverage:g} of each class; a set includes a class from this probability on: {limits}",
        coverage=sets.coverage,
        limits=listed(*limits),
    )
    return [("Prediction sets", in_words)]


def _mm(spacing: tuple[float, float, float]) -> str:
    return " x ".join(f"{value:.2f}" for value in spacing) + " mm"
