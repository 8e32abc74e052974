"""What a distillation does: the views, the two networks, the loss and the budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Triple = tuple[int, int, int]


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CropConfig(_Config):
    """Which pieces of the source scans are looked at. Triples are in array order: depth, height, width.

    Attributes:
        shape: voxels of a crop, the teacher's grid; the student's grid is this one averaged down.
        size_mm: physical extent of most crops, drawn log-uniformly, and ...
        large_size_mm, large: ... of this share of them.
        stretch: relative change of the extent along each axis.
        rotation_degrees: largest rotation about each axis.
        shift_mm: largest displacement from the chosen centre along each axis.
        flip: probability of mirroring each axis.
        lung: share of the crops that are centred in lung, as far as the source has any.
        cut: probability of ending the scan inside the crop, depth and in plane; beyond, the last voxel repeats, as in
            scans that were cropped tightly to a finding.
        scans_per_batch: a batch is drawn from so many scans.
    """

    shape: Triple = (32, 64, 64)
    size_mm: tuple[Positive, Positive] = (28.0, 60.0)
    large_size_mm: tuple[Positive, Positive] = (60.0, 90.0)
    large: Share = 0.15
    stretch: Share = 0.15
    rotation_degrees: tuple[float, float, float] = (30.0, 20.0, 20.0)
    shift_mm: Positive = 8.0
    flip: Share = 0.5
    lung: Share = 0.35
    cut: tuple[Share, Share] = (0.5, 0.3)
    scans_per_batch: Annotated[int, Field(ge=1)] = 16


class LungSceneConfig(_Config):
    """Synthetic lung and nodules painted into crops; see lung_scenes.py.

    Attributes:
        lung: share of the crops without lung whose fat is turned into lung.
        plain: share of these whose tissue is replaced by synthetic lung instead.
        pleura: probability of a chest wall in such a crop.
        vessels: vessels added to such a crop.
        nodule: probability of a nodule in a crop with lung, and in any other crop.
        radius_mm: of a nodule, log-uniform.
    """

    lung: Share = 0.6
    plain: Share = 0.5
    pleura: Share = 0.3
    vessels: Annotated[int, Field(ge=0)] = 6
    nodule: tuple[Share, Share] = (0.8, 0.1)
    radius_mm: tuple[Positive, Positive] = (1.5, 15.0)


class ViewConfig(_Config):
    """How the student's view is made worse than the teacher's; intensities in units of the input's whole range.

    Attributes:
        thick_slices: share of views averaged over two to four slices and interpolated back.
        blur: share of views blurred in plane.
        shift, scale, gamma: largest change of intensity (gamma as a logarithm).
        noise: largest standard deviation of white noise.
    """

    thick_slices: Share = 0.5
    blur: Share = 0.25
    shift: Share = 0.04
    scale: Share = 0.1
    gamma: Share = 0.25
    noise: Share = 0.04


class DistillationConfig(_Config):
    """Distillation of a large encoder into a small one on unlabelled scans.

    Attributes:
        student, teacher: entries of the backbone registry; ``teacher_weights`` a file on disk.
        student_shape: the student's grid; each number divides that of ``crops.shape``.
        stages: so many of the last stages of the student predict as many of the teacher's.
        spacing_mm: finer source scans are brought to this voxel size; coarser ones stay as they are.
        validation_scans: source scans kept out of training, for the agreement that curve.json reports.
        minutes: wall time of the training; the learning rate follows the share of it that is spent.
        steps: fixed number of steps instead of ``minutes``.
        batch: crops a step; the student sees two views of each.
        vicreg: weight of the self-supervised term between the two views (Bardes et al. 2022, arXiv:2105.04906).
        ema: decay of the running mean of the weights, which is what is saved.
        calibration_batches: batches from which the mean and spread of the teacher's channels are measured.
        channels_last: memory layout; usually faster on a GPU.
    """

    student: str = "resnet18-w32"
    teacher: str = "astra"
    teacher_weights: Path | None = None
    student_shape: Triple = (32, 32, 32)
    stages: Annotated[int, Field(ge=1, le=4)] = 3
    spacing_mm: Positive = 1.0
    validation_scans: Annotated[int, Field(ge=0)] = 3
    crops: CropConfig = CropConfig()
    lung_scenes: LungSceneConfig = LungSceneConfig()
    views: ViewConfig = ViewConfig()
    minutes: Positive | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    batch: Annotated[int, Field(ge=2)] = 192
    learning_rate: Positive = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warm_up: Share = 0.03
    vicreg: Annotated[float, Field(ge=0)] = 0.05
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    calibration_batches: Annotated[int, Field(ge=1)] = 16
    checkpoint_seconds: Positive = 60.0
    channels_last: bool = True
    seed: int = 0

    @model_validator(mode="after")
    def _one_budget(self) -> DistillationConfig:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("exactly one of minutes and steps, for example minutes: 8")
        return self

    @model_validator(mode="after")
    def _grids_fit(self) -> DistillationConfig:
        if any(big % small for big, small in zip(self.crops.shape, self.student_shape, strict=True)):
            raise ValueError("each number of student_shape must divide that of crops.shape, for example 32 and 64")
        return self
