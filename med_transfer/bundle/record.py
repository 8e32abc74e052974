"""The record of a bundle: classes, preprocessing, decisions, and hashes of the patients it was trained on."""

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
    """The backbone and the weights that it started from.

    Attributes:
        weights: name of the source file; None: trained from scratch.
        sha256: hash of that file.
        instance_pooling: as in the run's config; None for networks without instances, or attention over all of them.
        tile_overlap: as in the run's config; None for networks without tiles, or a quarter.
        pretrain: method of further pretraining on the training scans, as in the run's config; None: none.
        answers: whether the head reads the network's answers for each slice, see
            :mod:`med_transfer.backbones.networks.lesion_answers`.
        published: whether the head also reads the network as published, see
            :mod:`med_transfer.backbones.networks.published`.
        as_colours: whether three channels, windows of one scan, are the network's red, green and blue.
        plan: architecture, where the name does not determine it (nnU-Net), so that the source is not needed again.
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
        """Name, initial weights and further pretraining, in words."""
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
    """The patients and scans that the network was trained on, as hashes only.

    Attributes:
        sample_hashes: hashes of the run's own labelled scans, see :mod:`med_transfer.cohorts.input_facts`; empty in
            older bundles.
        from_source: the part that the source network, with its own sources, was trained on; None if there is none, or
            in older bundles.
    """

    cohort_hash: str
    patient_hashes: tuple[str, ...]
    content_hashes: tuple[str, ...]
    sample_hashes: tuple[str, ...] = ()
    from_source: Provenance | None = None


class HeldOut(_Record):
    """Hashes of the test patients and their scans, without identifiers."""

    patient_hashes: tuple[str, ...]
    content_hashes: tuple[str, ...]


class TransferRecord(_Record):
    """How the network was transferred.

    Attributes:
        strategy, regularise, batch_norm: as in the run's config.
        adapter_reduction: reduction factor of the network's adapters; None if it has none.
        align, mapping: how features were aligned or mapped; None if they were not.
        bottleneck: number of features after the autoencoder's bottleneck; None if the network has none.
        n_unlabelled: number of unlabelled scans used in training.
        fallback: why the network trained from scratch was kept; empty if it is the transferred one.
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
        """The transfer in words."""
        parts = [*transfer_words(self.strategy, self.regularise, self.batch_norm, self.align, self.mapping)]
        return listed(*parts, *([Sentence("{n} unlabelled scans", n=self.n_unlabelled)] if self.n_unlabelled else []))


def transfer_words(
    strategy: str, penalties: Sequence[str], batch_norm: str, align: str | None, mapping: str | None
) -> Iterator[str]:
    """Yield the parts of a description of the transfer; names as in a config."""
    yield from (strategy, *penalties, f"BatchNorm {batch_norm}")
    if align:
        yield Sentence("aligned by {method}", method=align)
    if mapping:
        yield Sentence("features mapped by {method}", method=mapping)


class BundleRecord(_Record):
    """Content of ``med_transfer.json``. Fields that older bundles lack have a default that means unknown.

    Attributes:
        development: profile of the development scans; its class shares are the prevalence baseline.
        held_out: the run's own test set; None if unknown.
        reported: names of the measures that the run had to report.
        encoders: number of each fold model's encoder or encoders. Encoders of one number are equal and stored once,
            under the first one's name. Empty: every encoder is stored.
        n_similar_cases: number of development scans stored as similar cases, see
            :mod:`med_transfer.bundle.similar_cases`; 0: the bundle contains no picture of a patient.
        files: SHA-256 of the bundle's other files, except the weights; empty if unknown.
        lock_hash: hash of the decisions, see :mod:`med_transfer.bundle.decisions_lock`; empty in bundles older than
            locks.
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
        """The operating point that calls what the network favours, regardless of class frequency."""
        evidence = self.calibration.without_evidence(len(self.classes), multilabel=self.multilabel)
        return OperatingPoint.balanced(self.labels, evidence)

    @property
    def reports_fusion(self) -> bool:
        """Whether the fused model's answers are the reported ones, and not the network's."""
        return self.fusion is not None and self.fusion.report == "fused"

    def reported_probabilities(self, answer: Prediction) -> dict[str, float]:
        """Probabilities of a scan by class name, of the reported model.

        Raises:
            NoAnswer: it is the fused one, and the scan could not be fused.
        """
        if not self.reports_fusion:
            return answer.probabilities
        if not answer.fused:
            raise NoAnswer(
                answer.reason,
                where=answer.scan,
                expected="a scan that can be fused, since the fused model is the reported one",
                action="Give what the fusion was trained with, or leave the scan out",
            )
        return answer.fused

    @property
    def reported_point(self) -> OperatingPoint:
        """The operating point of the reported model. A balanced one is the model's own, as the probabilities of a fused
        model reflect other class frequencies."""
        balanced = self.chosen_point is not None and self.chosen_point.rule == "balanced_argmax"
        if self.fusion is not None and self.reports_fusion and balanced:
            return self.fusion.balanced_point
        return self.operating_point

    def answer(
        self, prediction: Prediction, probabilities: NDArray[np.float64], novelty: float, facts: Facts | None = None
    ) -> Prediction:
        """Complete a scan's record with probabilities, predicted class, prediction set, and abstention with reasons.

        Args:
            prediction: the record to complete.
            probabilities: [class].
            novelty: in [0, 1].
            facts: facts of the scan, checked against the input envelope.

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
        """Return code and sentence of each reason to abstain on a scan; empty if there is none."""
        limit = self.abstain_above_novelty
        if limit is None:
            return {}
        novel = {}
        if novelty > limit:
            share = whole_percent(limit)
            novel = {NOVELTY: Sentence("more out-of-distribution than {limit} of held-out scans", limit=share)}
        return novel | self.input_envelope.outside(facts)


def require_answer(scan: str, *given: float) -> None:
    """Raise NoAnswer if the network's output for a scan contains NaN or infinity."""
    if not np.isfinite(given).all():
        raise NoAnswer(
            "the network's output is not finite",
            where=scan,
            expected="numbers",
            action="Look at the scan with med-transfer inspect; if others fail, too, train the bundle again",
        )
