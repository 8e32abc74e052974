"""What the report tells next to the metrics: the run, its learning curves, its worst misses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import printable
from med_transfer.errors.sentence import Text
from med_transfer.page import Language, Translator, sentence
from med_transfer.predictions.labels import Labels

SPLITS = ("train", "val", "test")
ALL_CLASSES = ""  # which no class is called
COHORT, DATE = sentence("Cohort"), sentence("Date")
FOLDERS = {"run": sentence("Run"), "bundle": sentence("Bundle"), "evaluation": sentence("Evaluation")}

# Names of rows, as a bundle's model card and a run's configuration have them; what has no translation stays English
ROWS = (
    sentence("Intended use"),
    sentence("Research use only. Not a medical device."),
    sentence("Classes"),
    sentence("Operating point"),
    sentence("Networks"),
    sentence("Transfer"),
    sentence("Fallback"),
    sentence("Backbone licence"),
    sentence("Backbone SHA-256"),
    sentence("Input"),
    sentence("Modality"),
    sentence("Intensities"),
    sentence("Spacing seen in training"),
    sentence("Calibration"),
    sentence("Prediction sets"),
    sentence("Similar cases"),
    sentence("Fusion"),
    sentence("Cohort hash"),
    sentence("Network kept"),
    sentence("Training and validation"),
    sentence("Development scans"),
    sentence("Scans repaired"),
    sentence("Augmentation"),
    sentence("Class balance"),
    sentence("Early stopping"),
    sentence("Seed"),
)


@dataclass(frozen=True)
class Count:
    """Scans, and the patients they are of."""

    scans: int
    patients: int


@dataclass(frozen=True)
class ParticipantFlow:
    """From the cohort table to the parts, before anything was called (STARD 2015, item 19).

    Attributes:
        found: rows of the cohort table.
        excluded: scans that could not be used, and the patients of whom no scan is left.
        parts: split to its scans; only ``test`` where a finished bundle was evaluated.
        n_networks: members of the ensemble; of several, each is validated on a fold of ``train`` that it has not seen.
    """

    found: Count
    excluded: Count
    parts: Mapping[str, Count]
    n_networks: int = 1

    @property
    def used(self) -> Count:
        """Found and not excluded."""
        return Count(self.found.scans - self.excluded.scans, self.found.patients - self.excluded.patients)


@dataclass(frozen=True)
class RunSummary:
    """The run in words and numbers.

    Attributes:
        title: for example the cohort's name.
        question: one sentence: what was asked of the scans.
        backbone, backbone_licence: name of the pretrained encoder and its licence.
        cohort: class (and ``All``) to split to count, see ``cohort_counts``.
        split: how scans were divided, one sentence.
        flow: how many scans came that far; None when nobody counted.
        cross_validated: whether every development scan is validated once and trained on otherwise; ``cohort`` counts it
            as training.
        config: rows (name, value) worth reading; the whole config is in config.yaml.
        seconds: wall time of the run.
        software: package to version.
        model_card: rows (name, value): intended use, input, limits, weights' hash ...
        origin: rows (name, value): which cohort, which run, when.
        language: that the report is written in.
    """

    title: str
    question: Text
    backbone: Text
    backbone_licence: str
    cohort: Mapping[str, Mapping[str, Count]]
    split: Text = "by patient: no patient is on both sides"
    flow: ParticipantFlow | None = None
    cross_validated: bool = False
    config: Sequence[tuple[Text, Text]] = ()
    seconds: float = 0.0
    software: Mapping[str, str] = field(default_factory=dict)
    model_card: Sequence[tuple[Text, Text]] = ()
    origin: Sequence[tuple[str, str]] = ()
    language: Language = "en"


@dataclass(frozen=True)
class LearningCurve:
    """Training of one network (one member of the ensemble).

    Attributes:
        name: of the member.
        epochs, train_loss, val_loss: equally long; epochs count from 0, and are shown counting from 1.
        monitored: value, by epoch, of the figure that early stopping watched.
        monitored_name: what that figure is.
        best_epoch: the epoch whose weights were kept.
    """

    name: Text
    epochs: Sequence[int]
    train_loss: Sequence[float]
    val_loss: Sequence[float]
    monitored: Sequence[float]
    monitored_name: Text
    best_epoch: int


@dataclass(frozen=True)
class Miss:
    """One wrong call, to look at.

    Attributes:
        row: of predictions.csv, the header being row 1: paths may name a patient, and a report is passed on.
        truth, predicted: class names; findings joined by ``;``.
        explained: class that the map is of: the one called wrongly, or the one missed where none was called.
        probability: of that class, in [0, 1].
        kind: ``miss``: a class that is there was not called; ``confident``: among the surest wrong calls.
        picture: JPEG of three planes, plain above and with the map below.
        through: point where the planes meet: middle of the region of interest, strongest point of the map, or middle.
        empty: nothing in the map speaks for the class.
        doubtful: the map fails a check of its own, see :class:`MapChecks`; False where an older record does not say.
        slices: the picture shows neighbouring slices of a scan that has few, not three planes.
    """

    row: int
    truth: str
    predicted: str
    explained: str
    probability: float
    kind: Literal["miss", "confident"]
    picture: bytes
    through: Literal["region", "peak", "middle"] = "middle"
    empty: bool = False
    doubtful: bool = False
    slices: bool = False


@dataclass(frozen=True)
class MapChecks:
    """How far the maps of a report can be trusted; means over the maps that are not empty, None where all are.

    Attributes:
        n: maps; n_empty of them show nothing that speaks for the class.
        element_mm: the smallest thing a map can tell apart, along depth, height, width; None: each scan's own.
        hidden_share: of the input that was hidden at most, in [0, 1].
        drop: of the probability, in [-1, 1], when the strongest part was hidden; random_drop: when another part was.
        n_no_better: maps whose strongest part does not clearly cost more than other parts, or that have none.
        correlation: Spearman's, in [-1, 1], with the map of random weights; above correlation_limit it is a warning.
        method: how the maps were made, ``gradcam`` or ``attention``.
    """

    n: int
    n_empty: int
    element_mm: tuple[float, float, float] | None
    hidden_share: float | None
    drop: float | None
    random_drop: float | None
    n_no_better: int
    correlation: float | None
    correlation_limit: float
    method: str = "gradcam"

    @property
    def alike(self) -> bool:
        """Whether random weights make much the same maps, so that none of them is to be read."""
        return self.correlation is not None and self.correlation > self.correlation_limit


def translated_value(value: Text, t: Translator) -> str:
    """The value of a row of the model card or the configuration, in the language of ``t`` where it has one."""
    return t.template(t.translated(value))


def cohort_name(table: Path | None) -> str:
    """What a report calls the cohort: the folder of its table, by its own name wherever the command was typed."""
    if table is None:
        return "cohort"
    return printable(table.resolve().parent.name or table.stem)


def origin(table: Path | None, **folders: Path) -> list[tuple[str, str]]:
    """Which cohort, which folders, and today: names alone, since paths say more of a machine than a reader needs."""
    named = [(FOLDERS[word], printable(folder.resolve().name)) for word, folder in folders.items()]
    cohort = f"{cohort_name(table)}/{printable(table.name)}" if table else cohort_name(table)
    return [(COHORT, cohort), *named, (DATE, datetime.now(UTC).date().isoformat())]


def cohort_counts(
    truth: NDArray[np.bool_], patients: Sequence[str], splits: Sequence[str], labels: Labels
) -> dict[str, dict[str, Count]]:
    """Scans and patients by class and split, with a last row for all classes.

    ``truth`` is boolean [scan, class]; ``patients`` and ``splits`` (train, val or test) have one entry a scan.
    """
    split_of, patient_of = np.asarray(splits, dtype=str), np.asarray(patients, dtype=str)
    rows = {name: truth[:, c] for c, name in enumerate(labels.names)}
    rows[ALL_CLASSES] = np.ones(len(truth), dtype=bool)
    return {
        name: {split: _count(patient_of[among & (split_of == split)]) for split in SPLITS}
        for name, among in rows.items()
    }


def participant_flow(
    patients: Sequence[str], splits: Sequence[str], excluded: Sequence[str], n_networks: int = 1
) -> ParticipantFlow:
    """Patient and part of every scan that was used, and the patient of every scan that was not."""
    patient_of, split_of = np.asarray(patients, dtype=str), np.asarray(splits, dtype=str)
    lost = set(excluded) - set(patients)
    return ParticipantFlow(
        found=Count(len(patients) + len(excluded), len({*patients, *excluded})),
        excluded=Count(len(excluded), len(lost)),
        parts={split: _count(patient_of[split_of == split]) for split in SPLITS if split in splits},
        n_networks=n_networks,
    )


def _count(patients: NDArray[np.str_]) -> Count:
    return Count(scans=len(patients), patients=len(np.unique(patients)))
