"""What a bundle says of itself: classes, preprocessing, decisions, and whom the network has learned from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from med_transfer.backbones import InstancePooling, NetworkPlan
from med_transfer.bundle.envelope import NOVELTY, Facts, InputEnvelope
from med_transfer.errors import NoAnswer
from med_transfer.errors.numbers import whole_percent
from med_transfer.errors.sentence import Sentence, TextInParts, joined, listed
from med_transfer.fusion import Fusion
from med_transfer.metrics.records.decisions import ChosenPoint
from med_transfer.metrics.records.domain import CohortProfile
from med_transfer.model.calibration import Calibrator, PredictionSets, Uncalibrated
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.record import Prediction
from med_transfer.preprocessing import PreprocessingConfig

RECORD_FILE = "med_transfer.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BackboneRecord(_Record):
    """Where the network came from.

    Attributes:
        weights: name of the source file; None: from scratch.
        sha256: of that file.
        instance_pooling: as in the run's config; None: attention over every instance, and in networks without any.
        tile_overlap: as in the run's config; None: a quarter, and in networks without tiles.
        pretrain: what else it learned before its fold, from the training scans, as in the run's config; None: nothing.
        answers: whether the head reads what the network answers of each slice, see
            :mod:`med_transfer.backbones.networks.lesion_answers`.
        published: whether it reads the network as it was published beside these, see
            :mod:`med_transfer.backbones.networks.published`.
        as_colours: whether the three channels, windows of one scan, are the network's red, green and blue.
        plan: how the network is built, where its name alone does not tell (nnU-Net); so the source is not needed again.
    """

    name: str
    pooled_stages: tuple[int, ...]
    instance_pooling: InstancePooling | None = None
    tile_overlap: float | None = None
    pretrain: str | None = None
    answers: bool = False
    published: bool = False
    as_colours: bool = False
    licence: str
    source: str
    weights: str | None = None
    sha256: str | None = None
    plan: NetworkPlan | None = None

    @property
    def sentence(self) -> str:
        """Name, weights that it started from, and what it learned before its fold, in words."""
        if self.weights is None:
            return Sentence("{name}, from scratch", name=self.name)
        if self.pretrain is None:
            return Sentence("{name}, weights {weights}", name=self.name, weights=self.weights)
        learned = Sentence(
            "{name}, weights {weights}, then pretrained on training scans: {method}",
            name=self.name,
            weights=self.weights,
            method=self.pretrain,
        )
        return Sentence("{learned}; and as published, beside it", learned=learned) if self.published else learned


class Provenance(_Record):
    """Whom the network has learned from, without saying who: hashes only.

    Attributes:
        sample_hashes: of the run's own labelled scans, see :mod:`med_transfer.cohorts.input_facts`; none where the
            bundle does not tell.
        from_source: what of it the source network had learned from already, its own sources included; None: nothing,
            or a bundle that does not tell.
    """

    cohort_hash: str
    patient_hashes: tuple[str, ...]
    content_hashes: tuple[str, ...]
    sample_hashes: tuple[str, ...] = ()
    from_source: Provenance | None = None


class HeldOut(_Record):
    """Whom the run is evaluated on: hashes of its test patients and of their scans, no identifiers."""

    patient_hashes: tuple[str, ...]
    content_hashes: tuple[str, ...]


class TransferRecord(_Record):
    """How the network was transferred.

    Attributes:
        strategy, regularise, batch_norm: as in the run's config.
        adapter_reduction: of the adapters that are part of the network; None when it has none.
        align, mapping: how features were aligned or mapped; None when they were not.
        bottleneck: features after the autoencoder's bottleneck that is part of the network; None when it has none.
        n_unlabelled: scans without labels that it has learned from.
        fallback: why this is the network from scratch after all; empty when it is the transferred one.
    """

    strategy: str
    regularise: tuple[str, ...] = ()
    batch_norm: str = "auto"
    adapter_reduction: int | None = None
    align: str | None = None
    mapping: str | None = None
    bottleneck: int | None = None
    n_unlabelled: int = 0
    fallback: TextInParts = ""

    @property
    def sentence(self) -> str:
        """In words."""
        parts = [*transfer_words(self.strategy, self.regularise, self.batch_norm, self.align, self.mapping)]
        return listed(*parts, *([Sentence("{n} unlabelled scans", n=self.n_unlabelled)] if self.n_unlabelled else []))


def transfer_words(
    strategy: str, penalties: Sequence[str], batch_norm: str, align: str | None, mapping: str | None
) -> Iterator[str]:
    """How a network is transferred, word by word; the names as in a config."""
    yield from (strategy, *penalties, f"BatchNorm {batch_norm}")
    if align:
        yield Sentence("aligned by {method}", method=align)
    if mapping:
        yield Sentence("features mapped by {method}", method=mapping)


class BundleRecord(_Record):
    """``med_transfer.json``. Fields that older bundles lack have a default that says so.

    Attributes:
        development: the scans that it was developed on; their shares of the classes are its prevalence baseline.
        held_out: the run's own test set; None: the bundle does not tell.
        reported: names of the measures that the run was to report.
        encoders: for each fold model the number of its encoder, or of each of its encoders. Those of one number are
            equal, and lie among the weights once, as the first one's; empty: each fold model's lies there.
        n_similar_cases: development scans that it shows beside new ones like them, see
            :mod:`med_transfer.bundle.similar_cases`; 0: it holds no scan of anybody.
        files: SHA-256 of the bundle's other files, the weights excepted; empty: the bundle does not tell.
        lock_hash: of every decision above, see :mod:`med_transfer.bundle.decisions_lock`; empty: from before there
            were locks.
    """

    schema_version: Literal["1"] = Field(default="1", alias="schema")
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    classes: tuple[str, ...]
    multilabel: bool = False
    preprocessing: PreprocessingConfig
    backbone: BackboneRecord
    n_fold_models: int = Field(validation_alias="n_members", serialization_alias="n_members")
    encoders: tuple[int, ...] = ()
    operating_point: OperatingPoint = OperatingPoint()
    chosen_point: ChosenPoint | None = None
    calibration: Calibrator = Uncalibrated()
    prediction_sets: PredictionSets | None = None
    abstain_above_novelty: float | None = None
    input_envelope: InputEnvelope
    trained_on: Provenance
    development: CohortProfile | None = None
    held_out: HeldOut | None = None
    transfer: TransferRecord | None = None
    fusion: Fusion | None = None
    reported: tuple[str, ...] = ()
    n_similar_cases: int = 0
    weights_sha256: str = ""
    files: dict[str, str] = Field(default_factory=dict)
    lock_hash: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    intended_use: str = "Research use only. Not a medical device."

    @model_validator(mode="after")
    def _calibration_fits(self) -> BundleRecord:
        if not self.calibration.fits(len(self.classes)):
            raise ValueError(f"the calibration is not of {len(self.classes)} classes")
        if self.prediction_sets is not None and not self.prediction_sets.fits(len(self.classes)):
            raise ValueError(f"the prediction sets are not of {len(self.classes)} classes")
        return self

    @property
    def labels(self) -> Labels:
        """The classes, and whether a scan may have several."""
        return Labels(self.classes, self.multilabel)

    @property
    def balanced_point(self) -> OperatingPoint:
        """What the network itself finds most probable, whatever the classes' frequency."""
        evidence = self.calibration.without_evidence(len(self.classes), multilabel=self.multilabel)
        return OperatingPoint.balanced(self.labels, evidence)

    def answer(
        self, prediction: Prediction, probabilities: NDArray[np.float64], novelty: float, facts: Facts | None = None
    ) -> Prediction:
        """A scan's record completed with probabilities [class], the call at the operating point, the set of classes
        that cannot be ruled out, and abstention with its reasons.

        Args:
            facts: of the scan, which the input envelope is asked about.

        Raises:
            NoAnswer: the network gave NaN or infinity.
        """
        require_answer(prediction.scan, *probabilities, novelty)
        predicted = self.operating_point.predictions(probabilities[None], self.labels)[0]
        sets, why = self.prediction_sets, self.abstains(novelty, facts or {})
        return replace(
            prediction,
            probabilities=dict(zip(self.classes, probabilities.tolist(), strict=True)),
            predicted=";".join(
                name for name, is_predicted in zip(self.classes, predicted, strict=True) if is_predicted
            ),
            prediction_set=sets.written(probabilities, self.classes) if sets is not None else "",
            abstained=bool(why),
            abstained_because=";".join(why),
            reason=joined(prediction.reason, *why.values()),
            novelty=novelty,
            facts=facts or {},
        )

    def abstains(self, novelty: float, facts: Facts) -> dict[str, Sentence]:
        """Why a prediction on such a scan abstains: code and sentence of each reason; empty where it does not."""
        limit = self.abstain_above_novelty
        if limit is None:
            return {}
        novel = {}
        if novelty > limit:
            share = whole_percent(limit)
            novel = {NOVELTY: Sentence("more out-of-distribution than {limit} of held-out scans", limit=share)}
        return novel | self.input_envelope.outside(facts)


def require_answer(scan: str, *given: float) -> None:
    """What a bundle's networks give for a scan. Raises NoAnswer: NaN or infinity is among it."""
    if not np.isfinite(given).all():
        raise NoAnswer(
            "the network's output is not finite",
            where=scan,
            expected="numbers",
            action="Look at the scan with med-transfer inspect; if others fail, too, train the bundle again",
        )
