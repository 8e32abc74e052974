"""The bundle's docs/README.md: what the model is for, what it came from, and what it must not be used for."""

from __future__ import annotations

from functools import reduce

from med_transfer.bundle import BundleRecord
from med_transfer.cohorts import Cohort
from med_transfer.errors.sentence import Sentence, joined
from med_transfer.page.markdown import as_text, table
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.preprocessing.config import ORGANS


def model_card_rows(record: BundleRecord) -> list[tuple[str, str]]:
    """Name and value of what a reader must know of the model."""
    backbone = record.backbone
    return [
        ("Intended use", record.intended_use),
        ("Classes", _classes(record)),
        ("Operating point", record.operating_point.said(Sentence)),
        ("Networks", Sentence("{n}, their calibrated probabilities averaged", n=record.n_fold_models)),
        (
            "Backbone",
            Sentence("{name}, weights {weights}", name=backbone.name, weights=backbone.weights)
            if backbone.weights
            else Sentence("{name}, from scratch", name=backbone.name),
        ),
        *_transfer_rows(record),
        ("Backbone licence", backbone.licence),
        ("Backbone SHA-256", backbone.sha256 or Sentence("none: trained from scratch")),
        ("Input", _input(record.preprocessing)),
        *_channel_rows(record.preprocessing),
        *_spacing_rows(record),
        ("Calibration", _calibration(record)),
        *_set_rows(record),
        *_fusion_rows(record),
        ("Cohort hash", record.trained_on.cohort_hash),
    ]


def model_card(record: BundleRecord, cohort: Cohort) -> str:
    """Markdown; counts of the cohort, no patient."""
    counts = [(name, str(scans), str(patients)) for name, (scans, patients) in cohort.counts().items()]
    return (
        f"# Classifier of {as_text(', '.join(record.classes))}\n\n{as_text(record.intended_use)}\n\n"
        f"{table([('', ''), *model_card_rows(record)])}\n\n"
        f"## Cohort\n\n{table([('class', 'scans', 'patients'), *counts])}\n\n"
        "How well it does, on whom, and with what uncertainty stands in the run's report.html and metrics.json.\n"
        "Scans unlike the cohort's, in spacing, scanner, body part or disease, are outside of what was tested.\n"
    )


def _classes(record: BundleRecord) -> str:
    names = ", ".join(record.classes)
    return Sentence("{names} (any number of them)", names=names) if record.multilabel else names


def _input(config: PreprocessingConfig) -> str:
    """Shape, and voxel size or how the region is fitted; the region where it is found in the scan itself."""
    parts = [" x ".join(map(str, config.shape)) + " voxels"]
    parts += [_mm(config.spacing_mm)] if config.spacing_mm else [f"region fitted ({config.fit})"]
    parts += [f"of the {config.region}"] if config.region in ORGANS else []
    return ", ".join(parts) + (" alone" if config.isolate else "")


def _channel_rows(config: PreprocessingConfig) -> list[tuple[str, str]]:
    """Modality and intensities of the scan, or of each channel."""
    if not config.channels:
        return [("Modality", config.modality or Sentence("not checked")), ("Intensities", intensities(config))]
    channels = zip(config.column_of_channel, config.by_channel, strict=True)
    return [
        (f"Channel {number}", f"column {column}, {own.modality or 'any modality'}, {intensities(own)}")
        for number, (column, own) in enumerate(channels, start=1)
    ]


def _spacing_rows(record: BundleRecord) -> list[tuple[str, str]]:
    first = record.input_envelope
    seen = zip(record.preprocessing.columns, (first, *first.further), strict=False)
    return [
        (
            f"Spacing seen in training{f' ({column})' if first.further else ''}",
            Sentence(
                "{low} to {high} (column, row, slice)",
                low=_mm(channel.spacing_mm_low),
                high=_mm(channel.spacing_mm_high),
            ),
        )
        for column, channel in seen
    ]


def intensities(config: PreprocessingConfig) -> str:
    """Which values the network tells apart, in words."""
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
    return [("Transfer", str(record.transfer)), *([("Fallback", fallback)] if fallback else [])]


def _fusion_rows(record: BundleRecord) -> list[tuple[str, str]]:
    """What a fused prediction needs; without it there is the network's alone."""
    if record.fusion is None:
        return []
    inputs, fitted = record.fusion.inputs, record.fusion.combinations[0]
    needed = [f"handcrafted features ({' or '.join(inputs.within)})"] if inputs.handcrafted else []
    needed += [f"column {column.name}" for column in inputs.columns]
    learned = (
        "mean with a model of" if record.fusion.method == "mean" else "regression fitted on out-of-fold outputs of"
    )
    return [("Fusion", f"network with {', '.join(needed)}; {learned} {fitted.n_scans} scans")]


def _calibration(record: BundleRecord) -> str:
    fitted = record.calibration
    how = Sentence("{how} on {n} validation scans", how=fitted.said(Sentence), n=fitted.n)
    return joined(how, fitted.note)


def _set_rows(record: BundleRecord) -> list[tuple[str, str]]:
    """From which probability on a class cannot be ruled out."""
    sets = record.prediction_sets
    if sets is None:
        return []
    of_class = zip(record.classes, sets.thresholds, sets.n_patients, strict=True)
    limits = [
        Sentence("{name} {threshold} ({n} patients)", name=name, threshold=f"{threshold:.3f}", n=n)
        for name, threshold, n in of_class
    ]
    in_words = Sentence(
        "coverage {coverage:g} of each class; a class is in from probability {limits}",
        coverage=sets.coverage,
        limits=reduce(lambda first, second: Sentence("{first}, {second}", first=first, second=second), limits),
    )
    return [("Prediction sets", in_words)]


def _mm(spacing: tuple[float, float, float]) -> str:
    return " x ".join(f"{value:.2f}" for value in spacing) + " mm"
