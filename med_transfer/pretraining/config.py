"""The config of a pretraining: crops, method, budget, and measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from med_transfer.config import Seed, StrictModel
from med_transfer.pretraining.view_config import (
    CropConfig,
    LesionConfig,
    LungSceneConfig,
    Positive,
    RangeHU,
    Share,
    Triple,
    ViewConfig,
)

Method = Literal[
    "distillation", "supervised", "masked_autoencoding", "contrastive", "painted_nodules", "painted_lesions"
]


class DistillationConfig(StrictModel):
    """A large encoder's feature maps are the target.

    Attributes:
        teacher: an entry of the backbone registry.
        teacher_weights: its file, the bundle of a run, or the folder of a pretraining; None where a package or the
            folder of imported weights has it.
        accept_licence: name of the teacher's licence where it is restricted.
        stages: so many of the last stages predict as many of the teacher's.
        vicreg: weight of the self-supervised term between two views (Bardes et al. 2022, arXiv:2105.04906).
        calibration_batches: batches from which the mean and spread of the teacher's channels are measured.
    """

    teacher: str = "astra"
    teacher_weights: Path | None = None
    accept_licence: str = ""
    stages: Annotated[int, Field(ge=1, le=4)] = 3
    vicreg: Annotated[float, Field(ge=0)] = 0.05
    calibration_batches: Annotated[int, Field(ge=1)] = 16


class MaskedAutoencodingConfig(StrictModel):
    """Hidden blocks of a crop are the target.

    Attributes:
        hidden: share of the blocks that are hidden.
        block: edge of a block, voxels of the encoder's grid; must divide ``input_shape``.
        decoder_channels: width of the decoder that is thrown away.
        statistics_batches: whole crops on which the normalisation layers are measured again before the encoder is
            saved, because in training they saw crops with holes.
    """

    hidden: Annotated[float, Field(gt=0, lt=1)] = 0.6
    block: Annotated[int, Field(ge=1)] = 8
    decoder_channels: Annotated[int, Field(ge=4)] = 32
    statistics_batches: Annotated[int, Field(ge=1)] = 8


class ContrastiveConfig(StrictModel):
    """Two overlapping crops of one place are the same; crops of other places are not.

    Attributes:
        loss: ``simclr`` (NT-Xent) or ``vicreg``.
        temperature: of NT-Xent.
        embedding: length of the vector that is compared; its projection is thrown away.
        shift: largest displacement of the second crop along each axis, as a share of the crop's extent.
        stretch: relative change of the second crop's extent along each axis; small, so that sizes keep their meaning.
    """

    loss: Literal["simclr", "vicreg"] = "simclr"
    temperature: Positive = 0.2
    embedding: Annotated[int, Field(ge=8)] = 128
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.25
    stretch: Annotated[float, Field(ge=0, le=0.3)] = 0.05


class SupervisedConfig(StrictModel):
    """Labels or masks of a source cohort are the target.

    Attributes:
        target: ``label`` predicts the table's label of a crop; ``mask`` predicts the mask inside a crop.
        region: with labels, a crop lies around the ``roi`` of the table, or is the ``whole`` scan.
        label_smoothing: of the cross-entropy.
        inside: with masks, share of the crops that are centred in the mask.
        decoder_channels: with masks, width of the decoder that is thrown away.
    """

    target: Literal["label", "mask"] = "label"
    region: Literal["roi", "whole"] = "roi"
    label_smoothing: Share = 0.05
    inside: Share = 0.5
    decoder_channels: Annotated[int, Field(ge=4)] = 32


class PaintedNodulesConfig(StrictModel):
    """What a program painted is the target; ``lung_scenes`` says what it paints.

    Attributes:
        kind: weight of the nodule's kind, beside 1 for its facts (size, density, solid share, outline, core).
        place: weight of where it lies.
        located_stages: so many of the first maps say where it lies.
        calibration_batches: batches from which the mean and spread of the facts are measured.
    """

    kind: Annotated[float, Field(ge=0)] = 0.5
    place: Annotated[float, Field(ge=0)] = 1.0
    located_stages: Annotated[int, Field(ge=0)] = 3
    calibration_batches: Annotated[int, Field(ge=1)] = 16


class ProbeConfig(StrictModel):
    """How good the encoder is on the way, measured every so many steps; written to curve.json.

    Attributes:
        every_steps: steps between two measurements.
        cohort: a labelled cohort.csv; a linear probe on the encoder's features gives a macro AUC. Rows marked
            ``split=test`` are left out. Without it, the method's own figure on the validation scans.
        region: as in fine-tuning; None: ``roi`` where the table gives regions, else ``foreground``.
        spacing_mm: voxel size of the probe's input, depth, height, width; None fits the whole region.
        folds: of the cross-validation, by patient.
    """

    every_steps: Annotated[int, Field(ge=1)] = 500
    cohort: Path | None = None
    region: Literal["roi", "foreground", "whole"] | None = None
    spacing_mm: tuple[Positive, Positive, Positive] | None = (1.5, 1.5, 1.5)
    folds: Annotated[int, Field(ge=2, le=20)] = 5


class StopConfig(StrictModel):
    """Stop before the budget is spent; the best encoder so far is the one that is kept.

    Attributes:
        patience: measurements without a gain.
        least_gain: what counts as a gain.
    """

    patience: Annotated[int, Field(ge=1)] = 6
    least_gain: Annotated[float, Field(ge=0)] = 0.002


class PretrainingConfig(StrictModel):
    """A whole pretraining. The resolved config is written to ``OUT/config.yaml``.

    Attributes:
        method: what the network is asked; the section of the same name has its settings.
        backbone: the entry of the registry that is trained.
        weights: where it starts: ``random``, ``published``, or the path of a weights file, bundle or pretraining.
        accept_licence: name of the published weights' licence where it is restricted.
        input_shape: the encoder's grid; each number divides that of ``crops.shape``.
        windows_hu: what the encoder sees of a scan, one channel each (painted lesions); None: its own window.
        spacing_mm: finer source scans are brought to this voxel size; coarser ones stay as they are.
        modality: DICOM series of another modality are left out; files that state none are taken.
        max_gap_mm: uneven slices are interpolated where no gap is wider; 0 leaves such scans out.
        validation_scans: source scans, with all others of their patients, that are kept out of training to measure on.
        lung_scenes: synthetic lung painted into crops (distillation, masked autoencoding, painted nodules); None: not.
        steps: length of the training; or ...
        minutes: ... wall time instead; the learning rate follows the share that is spent.
        batch: crops a step of each process.
        learning_rate: the highest one, of AdamW.
        weight_decay: of AdamW, without biases and normalisation layers.
        gradient_clip: maximum norm of a step's gradient.
        seed: of random weights, crops and views; the same seed repeats a pretraining on one process.
        warm_up: share of the training in which the learning rate rises.
        ema: decay of the running mean of the weights, which is what is saved.
        checkpoint_seconds: a killed run loses no more than this.
        channels_last: memory layout; usually faster.
    """

    method: Method = "masked_autoencoding"
    backbone: str = "resnet18-w32"
    weights: str = "random"
    accept_licence: str = ""
    input_shape: Triple = (32, 32, 32)
    windows_hu: Annotated[tuple[RangeHU, ...], Field(min_length=1, max_length=3)] | None = None
    spacing_mm: Positive = 1.0
    modality: str = "CT"
    max_gap_mm: Annotated[float, Field(ge=0)] = 0.0
    validation_scans: Annotated[int, Field(ge=0)] = 3
    crops: CropConfig = CropConfig()
    lung_scenes: LungSceneConfig | None = None
    views: ViewConfig = ViewConfig()
    distillation: DistillationConfig = DistillationConfig()
    masked_autoencoding: MaskedAutoencodingConfig = MaskedAutoencodingConfig()
    contrastive: ContrastiveConfig = ContrastiveConfig()
    supervised: SupervisedConfig = SupervisedConfig()
    painted_nodules: PaintedNodulesConfig = PaintedNodulesConfig()
    painted_lesions: LesionConfig = LesionConfig()
    probe: ProbeConfig = ProbeConfig()
    stop_when: StopConfig | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    minutes: Positive | None = None
    batch: Annotated[int, Field(ge=2)] = 32
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warm_up: Share = 0.03
    gradient_clip: Positive = 5.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0
    channels_last: bool = True
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_budget(self) -> PretrainingConfig:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("exactly one of minutes and steps, for example steps: 5000")
        return self

    @model_validator(mode="after")
    def _grids_fit(self) -> PretrainingConfig:
        if any(big % small for big, small in zip(self.crops.shape, self.input_shape, strict=True)):
            raise ValueError("each number of input_shape must divide that of crops.shape, for example 32 and 64")
        block = self.masked_autoencoding.block
        if self.method == "masked_autoencoding" and any(n % block or n == block for n in self.input_shape):
            raise ValueError(f"masked_autoencoding.block {block} must be a true divisor of each number of input_shape")
        return self

    @model_validator(mode="after")
    def _every_setting_is_read(self) -> PretrainingConfig:
        readers = {
            "windows_hu": {"painted_lesions"},
            "lung_scenes": {"distillation", "masked_autoencoding", "painted_nodules"},
        }
        for name, methods in readers.items():
            if getattr(self, name) is not None and self.method not in methods:
                raise ValueError(f"{name} is read by {', '.join(sorted(methods))} alone, not by {self.method}")
        return self

    @model_validator(mode="after")
    def _something_to_paint(self) -> PretrainingConfig:
        if self.method == "painted_nodules" and (self.lung_scenes is None or not any(self.lung_scenes.nodule)):
            raise ValueError("painted_nodules needs lung_scenes with a probability of nodules above 0")
        return self

    @model_validator(mode="after")
    def _something_to_stop_by(self) -> PretrainingConfig:
        if self.stop_when and not self.validation_scans and not self.probe.cohort:
            raise ValueError("stop_when needs something to measure: validation_scans above 0, or probe.cohort")
        return self
