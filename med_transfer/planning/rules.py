"""The rules of a plan: from what the scans look like to one setting each, with its reason. The table: docs/planning.md.

Every rule is a pure function of the fingerprint and of the backbone that the user has chosen (empty: none), and gives
its choices or none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from med_transfer.backbones import InputSpec, find_backbone
from med_transfer.cohorts.splits import FEW_PATIENTS
from med_transfer.config import as_typed
from med_transfer.planning.fingerprint import CohortFingerprint, Triple
from med_transfer.scans import geometry

Window = tuple[float, float]
Kind = Literal["slices", "tiles", "region", "whole"]

# Window centre and width as radiologists set them, as lower and upper end in HU; sources in docs/planning.md
BRAIN, BLOOD, BONE = (0.0, 80.0), (-20.0, 180.0), (-800.0, 2000.0)
LUNG, SOFT_TISSUE, BONE_OF_CHEST = (-1350.0, 150.0), (-160.0, 240.0), (-500.0, 1300.0)
LIVER = (-45.0, 105.0)
WINDOWS: dict[str, tuple[tuple[str, Window], ...]] = {
    "head": (("brain", BRAIN), ("blood", BLOOD), ("bone", BONE)),
    "chest": (("lung", LUNG), ("soft tissue", SOFT_TISSUE), ("bone", BONE_OF_CHEST)),
    "trunk": (("soft tissue", SOFT_TISSUE), ("liver", LIVER), ("bone", BONE_OF_CHEST)),
    "unknown": (("lung", LUNG), ("soft tissue", SOFT_TISSUE), ("bone", BONE_OF_CHEST)),
}
ORGANS = {"head": "brain", "chest": "lungs"}  # part of the body to what is cut out of it
MIN_SHARE_FOUND = 0.98  # of the scans: where thresholds miss an organ, it is mostly a sick one

SLICES, REGION = "slices-efficientnet-lite0", "med-transfer-small"
SLICE_PIXELS = 224  # the photographs of ImageNet
LESION_PIXELS, LESION_STEPS, LESION_ENCODERS = 160, 1600, 2  # small enough for two cores in half an hour
MIN_CANVASES, MAX_CLASSES_ANSWERED = 10, 3  # patients who have nothing; classes that two numbers can tell apart
HEALTHY_NAMES = {*("none", "normal", "healthy", "negative", "control", "controls", "0", "no", "n", "false"), "正常"}
NEGATIONS = {"no", "without"}  # and what, as in no_haemorrhage
MAX_SLICES, MIN_SLICES = 48, 8
REGION_SHAPE, REGION_SPACING_MM = (16, 32, 32), (2.0, 1.0, 1.0)  # what med-transfer-small learned from
WHOLE_SHAPE = (64, 96, 96)
_AXIAL = "SPL"  # the axes of these triples
FOLDS, MIN_FOLDS = 5, 2  # the defaults of split and training, which a test compares
EPOCHS, EPOCH_SCANS, MIN_EPOCHS = 60, 256, 10
SIDE_WORDS = {*("left", "right", "l", "r", "links", "rechts", "gauche", "droit", "droite"), *"左右"}
_WORD = re.compile(r"[左右]|[A-Z]?[a-z]+|[A-Z]+")  # also of left_lung and LeftLung
FEW_OF_A_CLASS = 50  # patients; below, balanced sensitivity on validation patients jumps by whole patients


@dataclass(frozen=True)
class Choice:
    """One setting: a dotted key of the config, its value, and why."""

    key: str
    value: Any
    reason: str

    @property
    def sentence(self) -> str:
        """For a person, the value as it is typed; of a section what is stated, and one with a name alone by that."""
        stated = self.value
        if isinstance(stated, dict):
            stated = {key: value for key, value in stated.items() if value is not None}
            stated = stated["name"] if set(stated) == {"name"} else stated
        typed = as_typed(stated)
        return f"{self.key}: {typed if len(typed) <= 60 else f'{typed[:57]}...'} ({self.reason})"


def network_kind(cohort: CohortFingerprint, chosen: str) -> Kind:
    """What kind of network suits the cohort, or is the one that the user has chosen."""
    with_region = cohort.n_with_region == cohort.n_scans
    if not chosen:
        return "region" if with_region else "slices"
    kinds: dict[str, Kind] = {"slices": "slices", "tiles": "tiles"}
    return kinds.get(chosen.partition("-")[0], "region" if with_region else "whole")


def region(cohort: CohortFingerprint, chosen: str) -> list[Choice]:
    """Where to look: at the table's regions, at an organ that is found in nearly all scans, at the body."""
    if cohort.n_with_region == cohort.n_scans:
        return [Choice("input.region", "roi", f"the table gives one for all {cohort.n_scans} scans")]
    organ = ORGANS.get(cohort.body_region, "") if cohort.modality == "CT" else ""
    n_scans = len(cohort.scans)
    n_found = round(cohort.found(organ) * n_scans) if organ else 0
    if organ and cohort.found(organ) >= MIN_SHARE_FOUND:
        others = "; the others are rejected by name" if n_found < n_scans else ""
        return [Choice("input.region", organ, f"{organ} found in {n_found} of {n_scans} scans{others}")]
    missed = f"; {organ} in only {n_found} of {n_scans}" if organ else ""
    return [
        Choice("input.region", "foreground", f"no region in the table, and the body is found in every scan{missed}")
    ]


def modality(cohort: CohortFingerprint, chosen: str) -> list[Choice]:
    """Which DICOM series are taken."""
    if not cohort.modality:
        return [Choice("input.modality", None, "the files state no modality and hold no Hounsfield units")]
    stated = "state or show it by their Hounsfield units" if cohort.modality == "CT" else "state it"
    return [Choice("input.modality", cohort.modality, f"the scans {stated}; others are rejected")]


def intensities(cohort: CohortFingerprint, chosen: str) -> list[Choice]:
    """Windows of the body part as channels for CT, each scan's own scale for the rest; several scans as channels."""
    columns = [Choice("input.channels", list(cohort.channels), "a scan of each of these columns in every row")]
    further = columns if len(cohort.channels) > 1 else []
    if cohort.modality != "CT":
        why = "values without a unit: each scan is scaled individually"
        return [Choice("input.normalisation", "zscore", why), *further]
    if network_kind(cohort, chosen) != "slices" or further:
        return further  # in the backbone's own window
    windows = WINDOWS[cohort.body_region]
    channels = [{"column": "scan", "window_hu": list(window)} for _, window in windows]
    names = ", ".join(f"{name} {low:g} to {high:g} HU" for name, (low, high) in windows)
    seen = cohort.body_region if cohort.body_region != "unknown" else "an unrecognised part of the body"
    return [Choice("input.channels", channels, f"windows for {seen}: {names}; red, green and blue of the network")]


def orientation(cohort: CohortFingerprint, chosen: str) -> list[Choice]:
    """Slices as they were acquired, upright as a reader sees them, where the network looks at slices."""
    letters = {"coronal": "PIL", "sagittal": "LIP"}.get(cohort.plane, "SPL")
    if network_kind(cohort, chosen) != "slices" or letters == "SPL":
        return []
    return [Choice("input.orientation", letters, f"the slices are {cohort.plane}: depth is across them, upright")]


def size(cohort: CohortFingerprint, chosen: str) -> list[Choice]:
    """Voxels, and what they cover in mm."""
    kind = network_kind(cohort, chosen)
    if kind == "region":
        return _size_of_region(cohort, chosen or REGION)
    if kind == "slices":
        return _size_of_slices(cohort, chosen)
    if kind == "tiles":
        return _size_of_tiles(cohort, chosen)
    needs = find_backbone(chosen).input
    return [
        Choice("input.fit", "isotropic", "isotropic voxels: proportions are kept"),
        Choice("input.shape", _in_axes_of(needs, _at_least(WHOLE_SHAPE, needs)), "small enough to train on two cores"),
    ]


def _size_of_region(cohort: CohortFingerprint, chosen: str) -> list[Choice]:
    needs, longest = find_backbone(chosen).input, cohort.given_mm(90)
    shape, usual_mm = _at_least(REGION_SHAPE, needs), REGION_SHAPE[1] * REGION_SPACING_MM[1]
    edge_mm = max(usual_mm, longest)
    spacing = [round(edge_mm / n, 2) for n in shape]
    covered = shape[1] * spacing[1]
    why = f"{covered:.0f} mm: nine tenths of the regions are at most {longest:.0f} mm long"
    pretrained = "as in the backbone's pretraining"
    of_shape = f"the smallest that {chosen} takes" if shape != REGION_SHAPE else "small enough to train on two cores"
    return [
        Choice(
            "input.spacing_mm",
            _in_axes_of(needs, spacing),
            f"{why}, {pretrained}" if chosen == REGION and edge_mm == usual_mm else why,
        ),
        Choice("input.shape", _in_axes_of(needs, shape), pretrained if chosen == REGION else of_shape),
        Choice("input.outside", "edge", "beyond the edge of a crop, the last voxels are repeated"),
    ]


def _at_least(shape: tuple[int, int, int], needs: InputSpec) -> tuple[int, int, int]:
    """The shape (depth, height, width of an axial scan), with as many voxels as the network needs along each axis."""
    least = geometry.reordered(needs.minimum_shape, needs.orientation, _AXIAL)
    depth, height, width = map(max, shape, least)
    return depth, height, width


def _in_axes_of(needs: InputSpec, of_axial: Sequence[float]) -> list[float]:
    """One value for each axis of an axial scan (depth, height, width), in the order of the network's own axes."""
    return list(geometry.reordered(of_axial, _AXIAL, needs.orientation))


def _size_of_slices(cohort: CohortFingerprint, chosen: str) -> list[Choice]:
    depth_mm = _box_in_view(cohort, chosen)[_depth_axis(cohort)]
    slices = round(depth_mm / cohort.spacing_mm[0])
    depth = min(MAX_SLICES, max(MIN_SLICES, slices))
    of_median = "as in the median scan" if depth == slices else f"instead of the {slices} of the median scan"
    why = f"{depth} slices, {of_median}: every scan is resampled to this number; in-plane size as for ImageNet"
    return [
        Choice("input.fit", "proportional", "proportions within a slice are kept"),
        Choice("input.shape", [depth, SLICE_PIXELS, SLICE_PIXELS], why),
        Choice("input.outside", "floor", "beyond the scan there is air"),
    ]


def _size_of_tiles(cohort: CohortFingerprint, chosen: str) -> list[Choice]:
    needs, box = find_backbone(chosen).input, _box_in_view(cohort, chosen, 90)
    own = needs.spacing_mm
    spacing = geometry.reordered(own, needs.orientation, _AXIAL) if own else REGION_SPACING_MM
    shape = [
        tile * max(1, round(mm / (tile * voxel_mm)))
        for mm, tile, voxel_mm in zip(box, REGION_SHAPE, spacing, strict=True)
    ]
    return [
        Choice("input.spacing_mm", _in_axes_of(needs, spacing), "as in the backbone's pretraining"),
        Choice(
            "input.shape", _in_axes_of(needs, shape), f"whole tiles over {' x '.join(f'{mm:.0f}' for mm in box)} mm"
        ),
        Choice("input.outside", "floor", "beyond the scan there is air, and such tiles are skipped"),
    ]


def _box_in_view(cohort: CohortFingerprint, chosen: str, percentile: float = 50) -> Triple:
    where = region(cohort, chosen)[0].value
    if where == "roi":
        edge = cohort.given_mm(percentile)
        return edge, edge, edge
    return cohort.box_mm("body" if where == "foreground" else where, percentile)


def _depth_axis(cohort: CohortFingerprint) -> int:
    return {"coronal": 1, "sagittal": 2}.get(cohort.plane, 0)


def backbone(cohort: CohortFingerprint, chosen: str) -> list[Choice]:
    """Whose weights to start from: photographs on every slice for whole scans, nodules for regions."""
    kind = network_kind(cohort, chosen)
    start = (REGION, "pretrained on nodules in CT")
    if kind == "slices":
        start = (SLICES, "whole scans: a network pretrained on photographs, applied to every slice")
    choices = [] if chosen else [Choice("backbone.name", *start)]
    if kind in ("slices", "tiles"):
        alike = f"combines what stands out in single {kind} with what all share"
        choices.append(Choice("backbone.instance_pooling", "mean_max", alike))
    return choices


def strategy(cohort: CohortFingerprint, chosen: str) -> list[Choice]:
    """What is trained: with whole scans a linear head on frozen features, on regions the whole network."""
    if network_kind(cohort, chosen) == "region":
        return []
    few = f"{cohort.rarest} patients of the rarest class"
    return [
        Choice("transfer.strategy.name", "linear_probe", f"{few}: frozen features and a linear head, in minutes"),
        Choice("from_scratch_baseline", False, "only the head is trained; set true to measure the transfer gain"),
    ]


def random_start(cohort: CohortFingerprint, chosen: str) -> list[Choice]:
    """A network without published weights learns as a whole: a head on random features would learn nothing."""
    if network_kind(cohort, chosen) == "region" or find_backbone(chosen or SLICES).weights is not None:
        return []
    return [
        Choice("transfer.strategy.name", "scratch", f"{chosen} has no published weights: the whole network is trained"),
        Choice("from_scratch_baseline", False, "nothing is transferred that could gain"),
    ]


def healthy_class(cohort: CohortFingerprint) -> str:
    """The class whose patients have nothing, by its name; empty where no class or several are called so."""
    names = [name for name in cohort.patients_of_class if _names_healthy(name)]
    return names[0] if len(names) == 1 else ""


def _names_healthy(name: str) -> bool:
    first, *further = re.split(r"[\s_-]+", name.strip().lower())
    return first in NEGATIONS if further else first in HEALTHY_NAMES


def pretraining(cohort: CohortFingerprint, chosen: str) -> list[Choice]:
    """Whole head CT of few patients, some of whom have nothing: lesions are painted into these, and learned first."""
    healthy, n_classes = healthy_class(cohort), len(cohort.patients_of_class)
    measured = cohort.modality == "CT" and cohort.body_region == "head" and chosen in ("", SLICES)
    suits = measured and network_kind(cohort, chosen) == "slices" and not cohort.multilabel
    few = cohort.rarest < FEW_OF_A_CLASS and n_classes <= MAX_CLASSES_ANSWERED and len(cohort.channels) == 1
    if not (suits and few and healthy and cohort.patients_of_class[healthy] >= MIN_CANVASES):
        return []
    depth = next(choice.value[0] for choice in _size_of_slices(cohort, chosen) if choice.key == "input.shape")
    return [
        Choice("backbone.pretrain", "painted_lesions", f"few labels, and class {healthy!r} to paint lesions into"),
        Choice("backbone.pretraining.only_class", healthy, "by its name, scans without findings"),
        Choice(
            "backbone.pretraining.encoders",
            LESION_ENCODERS,
            "each serves the folds whose held-out patients it has not seen",
        ),
        Choice("backbone.pretraining.steps", LESION_STEPS, "more steps help, but take longer"),
        Choice("backbone.pretraining.head_reads", "answers_and_published", "denser, lighter, and as photographs"),
        Choice("backbone.instance_pooling", "log_mean_exp", "a smooth maximum: a finding is in few slices"),
        Choice(
            "transfer.probe.inverse_strengths", [1.0], "with two inputs there is nothing to choose; both heads vote"
        ),
        Choice("calibration.method", "none", "the heads already give fitted probabilities"),
        Choice("input.shape", [depth, LESION_PIXELS, LESION_PIXELS], "small enough for two cores in half an hour"),
    ]


def flips(cohort: CohortFingerprint, chosen: str) -> list[Choice]:
    """A lesson seen in a mirror, where sides do not matter to the classes."""
    sided = [name for name in cohort.patients_of_class if SIDE_WORDS & {word.lower() for word in _WORD.findall(name)}]
    if sided:
        return [Choice("augmentation.flips", [], f"class {sided[0]!r} refers to a side")]
    if network_kind(cohort, chosen) == "region":
        return [Choice("augmentation.flips", [0, 1, 2], "a finding in its region has no left and right")]
    return []


def monitored(cohort: CohortFingerprint, chosen: str) -> list[Choice]:
    """The validation figure that stops the training."""
    if network_kind(cohort, chosen) != "region" or cohort.rarest >= FEW_OF_A_CLASS:
        return []
    why = f"more stable than sensitivity with {cohort.rarest} patients of the rarest class"
    return [Choice("training.monitor", "macro_auc", why)]


def folds(cohort: CohortFingerprint, chosen: str) -> list[Choice]:
    """As many as the rarest class has patients for, where that is fewer than the default."""
    kept_apart = int(cohort.n_patients >= FEW_PATIENTS)  # one more part, for the test
    most = cohort.rarest - kept_apart
    if not MIN_FOLDS <= most < FOLDS:
        return []
    part = "each fold and the test part have" if kept_apart else "each fold has"
    return [Choice("split.folds", most, f"{cohort.rarest} patients of the rarest class: {part} one")]


def epochs(cohort: CohortFingerprint, chosen: str) -> list[Choice]:
    """So many that a large cohort's training draws no more scans than a small one's."""
    drawn = round(cohort.n_scans * (1 - 1 / FOLDS))  # in an epoch, by one fold model
    fewer = max(MIN_EPOCHS, round(EPOCHS * EPOCH_SCANS / drawn))
    if network_kind(cohort, chosen) != "region" or fewer >= EPOCHS:
        return []
    why = (
        f"an epoch draws {drawn} scans instead of {EPOCH_SCANS}: as many in all as in {EPOCHS} epochs of a small cohort"
    )
    return [Choice("training.epochs", fewer, why)]


Rule = Callable[[CohortFingerprint, str], list[Choice]]
RULES: tuple[Rule, ...] = (
    *(backbone, strategy, region, modality, intensities, orientation, size),
    *(flips, monitored, folds, epochs),
    *(random_start, pretraining),  # over what the others chose
)
