"""The config of a fine-tuning run, typed and strict; keys are set in YAML or with ``--set part.key=value``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, model_validator

from med_transfer.backbones.instance_choice import MAX_TILE_OVERLAP, InstanceChoice, InstancePooling
from med_transfer.cohorts.splits import SplitConfig
from med_transfer.config import Seed, StrictModel
from med_transfer.errors import ConfigError
from med_transfer.errors.validation import first_problem
from med_transfer.explanation.config import ExplainConfig
from med_transfer.finetuning.decisions.config import OperatingPointConfig
from med_transfer.finetuning.old_settings import upgrade_strategy
from med_transfer.finetuning.transfer_config import TransferConfig
from med_transfer.fusion.config import FusionConfig
from med_transfer.metrics.config import EvaluationConfig
from med_transfer.model.calibration import CalibrationConfig
from med_transfer.page import Language
from med_transfer.planning.planned_for import PlannedFor
from med_transfer.preprocessing.config import InputConfig
from med_transfer.pretraining.view_config import LesionConfig

Share = Annotated[float, Field(ge=0, le=1)]
Degrees = Annotated[float, Field(ge=0, le=180)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Triple = tuple[int, int, int]

FrozenRuntime = Literal["torch", "openvino"]  # what computes the features of a frozen encoder


class FoldPretrainingConfig(StrictModel):
    """How the network learns painted lesions before the folds are trained; see docs/pretraining.md.

    Attributes:
        encoders: number of networks to pretrain, each for several folds, on patients that none of these folds holds
            out; None: one per fold, on all of its training patients. Two take two fifths of the time of five.
        head_reads: ``features``: the network's pooled feature maps. ``answers``: of each slice how much is denser and
            how much is lighter than its surroundings, as the network learned to answer; two numbers, of which labels
            have little left to find. Of slices-... and linear_probe. ``answers_and_published``: beside these the
            features of the network as it was published, on slices enlarged to 224 pixels; a head each, and the mean of
            their logits.
        steps: of four slabs each.
        learning_rate: the highest one, of AdamW.
        slab: neighbouring slices of one.
        only_class: paint lesions only into training scans of this class, for example patients without findings; None:
            all classes. If the table has findings: ``none``, the scans without any.
        canvas_share: share of these patients whose scans are painted into, chosen by seed. The scans of the others are
            new to the encoder, so that a head trained on its features sees scans of both kinds.
        lesions: what is painted.
    """

    encoders: Annotated[int, Field(ge=2)] | None = None
    head_reads: Literal["features", "answers", "answers_and_published"] = "features"
    steps: Annotated[int, Field(ge=1)] = 600
    slab: Annotated[int, Field(ge=1)] = 4
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    only_class: str | None = None
    canvas_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    lesions: LesionConfig = LesionConfig()


class BackboneConfig(StrictModel):
    """Where the transfer starts.

    Attributes:
        name: an entry of ``med-transfer backbones list``.
        weights: a checkpoint, an encoder in safetensors, or the bundle of an earlier run (its backbone is the source).
        accept_licence: name of the weights' licence, if restricted, to confirm that you have read and accept it.
        pooled_stages: feature maps that the head uses; None: those of the backbone's entry.
        instance_pooling: for slices-... and tiles-...: how the features of a scan's slices or tiles are combined,
            leaving out empty ones: ``attention`` (learned, by ``attention_probe`` or in training), ``mean``, ``max``,
            ``mean_max`` (both, joined), ``log_mean_exp`` (a smooth maximum, of features of unit spread) or ``top_k``
            (of each feature the mean of its three largest). None: attention, over empty slices too.
        tile_overlap: for tiles-...: minimum overlap of neighbouring tiles, as a share of a tile's edge; with more
            overlap, a finding is more often seen whole in one tile, at the cost of time. None: a quarter.
        pretrain: ``painted_lesions``: before each fold, the network is pretrained on lesions painted into its training
            scans.
        pretraining: how; only with ``pretrain``.
        runtime: runtime that computes the features of a frozen network on a CPU. OpenVINO is faster
            (docs/benchmarks.md), and its features differ in the sixth digit; a network in training always uses torch.
    """

    name: str = "med-transfer-small"
    weights: Path | None = None
    accept_licence: str = ""
    pooled_stages: tuple[int, ...] | None = None
    instance_pooling: InstancePooling | None = None
    tile_overlap: Annotated[float, Field(ge=0, le=MAX_TILE_OVERLAP)] | None = None
    runtime: FrozenRuntime = "torch"
    pretrain: Literal["painted_lesions"] | None = None
    pretraining: FoldPretrainingConfig = FoldPretrainingConfig()

    @property
    def has_answers(self) -> bool:
        """Whether the head reads the answers that the network learned in pretraining."""
        return self.pretrain is not None and self.pretraining.head_reads != "features"

    @property
    def has_published(self) -> bool:
        """Whether the head also reads the features of the network as it was published."""
        return self.pretrain is not None and self.pretraining.head_reads == "answers_and_published"

    def stages_read(self, of_entry: tuple[int, ...]) -> tuple[int, ...]:
        """The feature maps that the head reads; ``of_entry`` is the catalogue entry's default."""
        if self.has_published:
            return 0, -1
        return of_entry if self.pooled_stages is None else self.pooled_stages

    @property
    def instances(self) -> InstanceChoice:
        """How slices or tiles are pooled, and how tiles overlap."""
        return InstanceChoice(self.instance_pooling, self.tile_overlap)


class AugmentationConfig(StrictModel):
    """Heavy 3D augmentation. ``strength`` scales every range; a part is switched off by setting it to 0 or [].

    ``mixup`` has no range: it stays on at strength 0 unless it is 0 itself.

    Attributes:
        strength: 0 off, 1 as listed here, 2 twice the ranges.
        rotation_degrees: about each axis (depth, height, width), in the patient: voxels need not be cubes.
        scale: relative change of size per axis.
        translation: share of the input's size.
        flips: array axes that may be mirrored. Empty by default: left and right differ in patients.
        elastic: probability of a smooth grid distortion.
        elastic_size: its size as a share of a grid cell; there are four cells along the input's longest side in mm, and
            cells of the same length along the others.
        intensity_shift: in units of ``output_range``.
        intensity_scale, gamma: relative change.
        noise: standard deviation in units of ``output_range``.
        blur_voxels: largest sigma of a Gaussian blur.
        low_resolution: strongest reduction (0.5 = half the voxels along each axis), then back.
        dropout: probability of coarse dropout.
        dropout_size: share of the input's size of one hole.
        mixup: alpha of the Beta distribution with which pairs are mixed; 0 off.
    """

    strength: Annotated[float, Field(ge=0, le=3)] = 1.0
    rotation_degrees: tuple[Degrees, Degrees, Degrees] = (20.0, 20.0, 20.0)
    scale: Share = 0.15
    translation: Share = 0.08
    flips: tuple[Annotated[int, Field(ge=0, le=2)], ...] = ()
    elastic: Share = 0.2
    elastic_size: Share = 0.15
    intensity_shift: Share = 0.05
    intensity_scale: Share = 0.1
    gamma: Share = 0.25
    noise: Share = 0.04
    blur_voxels: Annotated[float, Field(ge=0, le=10)] = 0.8
    low_resolution: Share = 0.5
    dropout: Share = 0.2
    dropout_size: Share = 0.25
    mixup: Annotated[float, Field(ge=0)] = 0.2


class TrainingConfig(StrictModel):
    """The optimisation and when it stops.

    Attributes:
        epochs: maximum number; one epoch draws ``max(training scans, epoch_scans)`` scans.
        epoch_scans: minimum number of scans drawn in an epoch, so that an epoch of a small cohort has enough steps.
        batch_size: scans per step; reduce it if memory runs out.
        weight_decay: of AdamW, without biases and normalisation layers.
        warmup_epochs: epochs in which the learning rate rises to its maximum, before it falls along a cosine.
        gradient_clip: maximum norm of a step's gradient.
        dropout: dropout rate of the pooled features in training.
        label_smoothing: label smoothing, the share of a label that is spread over all classes; reduces overconfidence.
        balance: classes are drawn equally often (``sampling``), weighted in the loss (``weights``), or left alone.
        averaging: weights that are validated and kept: the last step's (``none``), their exponential mean over steps
            (``ema``), or their mean over the last epochs at a constant rate, without early stopping (``swa``).
        ema_decay: weight of the past at each step.
        swa_start: share of the epochs after which averaging begins.
        gap_limit: warn if balanced accuracy is higher on training than on validation scans by more than this.
        monitor: validation measure used for early stopping and for choosing the weights to keep;
            ``balanced_sensitivity`` is balanced accuracy.
        smoothing: weight of the past in the exponential mean of that figure (0: none).
        patience: epochs without improvement before stopping.
        precision: ``auto``: half precision on a GPU (bf16 if supported), fp32 on a CPU.
        workers: number of processes that augment scans; None: chosen from the number of cores.
    """

    epochs: Count = 60
    epoch_scans: Count = 256
    batch_size: Count = 16
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup_epochs: Annotated[float, Field(ge=0)] = 2.0
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    label_smoothing: Share = 0.05
    balance: Literal["sampling", "weights", "none"] = "sampling"
    averaging: Literal["none", "ema", "swa"] = "none"
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    swa_start: Annotated[float, Field(ge=0, lt=1)] = 0.75
    gap_limit: Share = 0.2
    monitor: Literal["balanced_sensitivity", "macro_auc", "loss"] = "balanced_sensitivity"
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.6
    patience: Annotated[int, Field(ge=1)] = 15
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    workers: Annotated[int, Field(ge=0)] | None = None


class ReportConfig(StrictModel):
    """What report.html looks like.

    Attributes:
        language: that its sentences are in: ``en`` or ``zh-TW``.
    """

    language: Language = "en"


class FinetuneConfig(StrictModel):
    """A whole run. The resolved config is written to ``RUN/config.yaml``.

    Attributes:
        from_scratch_baseline: also train the same network from scratch, same folds and budget, and report the gain.
        calibration: how logits become probabilities, see CalibrationConfig.
        fusion: the network with handcrafted features and clinical columns, see FusionConfig; None: the network alone.
        operating_point: how probabilities become calls, see OperatingPointConfig. This and the next may change in a
            run folder that has been trained.
        evaluation: which intervals the rates get, and the prevalence to state predictive values at.
        explain: how many errors the report shows, with where the network looked.
        subgroups: columns of the table, or acquisition parameters of the scans, whose subgroups are reported; None:
            every suitable one.
        abstain_above_novelty: predictions on scans that are more out-of-distribution than this share of held-out scans
            abstain, and so do those on scans outside the bundle's input envelope; None: never.
        similar_cases: the bundle stores a picture and the label of every development scan; the review page of a
            hospital node shows those most similar to a new scan. The bundle then contains patient images.
        seed: of random weights, the order of scans and augmentation; the same seed repeats a run.
        planned_for: the cohort that a plan was made for; training on a different one causes a warning or is refused.
    """

    renamed_keys: ClassVar[dict[str, str]] = {"scratch_twin": "from_scratch_baseline"}
    short_forms: ClassVar[dict[str, str]] = {"transfer.strategy": "name"}
    upgrade: ClassVar[Callable[[dict[str, Any]], None]] = upgrade_strategy
    searches: ClassVar[bool] = False  # whether many configs are tried on the development patients

    backbone: BackboneConfig = BackboneConfig()
    input: InputConfig = InputConfig()
    split: SplitConfig = SplitConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    transfer: TransferConfig = TransferConfig()
    training: TrainingConfig = TrainingConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    from_scratch_baseline: bool = True
    fusion: FusionConfig | None = None
    operating_point: OperatingPointConfig = OperatingPointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    explain: ExplainConfig = ExplainConfig()
    subgroups: tuple[str, ...] | None = None
    abstain_above_novelty: Share | None = 0.95
    similar_cases: bool = False
    seed: Seed = 0
    report: ReportConfig = ReportConfig()
    planned_for: PlannedFor | None = None

    @model_validator(mode="after")
    def _check_consistency(self) -> FinetuneConfig:
        reason = _contradiction(self)
        if reason:
            raise ValueError(reason)
        return self

    def resolved(self, *, from_source: bool) -> FinetuneConfig:
        """Copy with every ``auto`` of ``transfer`` resolved; see :meth:`TransferConfig.resolved`.

        The result is validated: it is written to disk, and read again when the run is resumed.

        Raises:
            ConfigError: a setting needs a source and there is none, or settings contradict each other.
        """
        if self.backbone.pretrain and not from_source:
            raise ConfigError(
                f"{self.backbone.pretrain} with a network that starts from random values: it goes on from a source",
                where="backbone.pretrain",
                expected="a backbone with weights, and a strategy other than scratch",
                action="Choose one, or leave backbone.pretrain out",
            )
        return _validated(self.model_copy(update={"transfer": self.transfer.resolved(from_source=from_source)}))

    def from_scratch_config(self) -> FinetuneConfig:
        """The config of the same run without its source."""
        backbone = self.backbone.model_copy(update={"weights": None, "pretrain": None})
        return self.model_copy(update={"backbone": backbone, "transfer": self.transfer.from_scratch()})


def _validated(config: FinetuneConfig) -> FinetuneConfig:
    """An equal config with every rule checked. Raises ConfigError."""
    try:
        return FinetuneConfig.model_validate(config.model_dump())
    except ValidationError as error:
        found, where = first_problem(error)
        raise ConfigError(found, where=where) from None


def _contradiction(config: FinetuneConfig) -> str:
    """Why the sections contradict each other; empty if they do not."""
    transfer, training, strategy = config.transfer, config.training, config.transfer.strategy
    if config.operating_point.is_chosen and config.fusion is not None and config.fusion.report == "fused":
        rule = config.operating_point.rule
        return f"operating_point.rule {rule} with fusion.report fused: thresholds are chosen for the network alone"
    if transfer.on_harm == "fallback" and not config.from_scratch_baseline:
        return "transfer.on_harm fallback without from_scratch_baseline: there is no network to fall back to"
    if strategy.name == "scratch" and config.backbone.weights is not None:
        return "transfer.strategy scratch with backbone.weights: from scratch no weights are loaded"
    if not strategy.trains and training.averaging != "none":
        return f"training.averaging {training.averaging} with {strategy.name}: there are no steps to average over"
    if transfer.align and training.batch_size < 2:
        return "training.batch_size 1 with transfer.align: one scan has no distribution"
    return _has_no_answers(config) if config.backbone.has_answers else ""


def _has_no_answers(config: FinetuneConfig) -> str:
    """Why the head cannot read the answers of a slice network; empty if it can."""
    backbone, strategy = config.backbone, config.transfer.strategy.name
    asked = f"backbone.pretraining.head_reads {backbone.pretraining.head_reads}"
    if not backbone.name.startswith("slices-"):
        network = "it answers of slices, and this is no network on slices, such as slices-efficientnet-lite0"
        return f"{asked} with {backbone.name}: {network}"
    if backbone.pooled_stages is not None:
        return f"{asked} with backbone.pooled_stages: it reads no feature map"
    if backbone.instance_pooling in (None, "attention"):
        return f"{asked} with attention over slices: set backbone.instance_pooling, for example mean"
    if strategy != "linear_probe" or config.transfer.batch_norm == "bn_adapt":
        other = strategy if strategy != "linear_probe" else "batch_norm bn_adapt"
        return f"{asked} with {other}: the network would not be the one any more that learned to answer"
    if backbone.has_published and config.transfer.bottleneck:
        return f"{asked} with transfer.mapping autoencoder: the features and the answers have a head each"
    return ""
