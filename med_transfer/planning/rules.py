"""The rules of a plan: from what the scans look like to one setting each, with its reason. The table: docs/planning.md.

Every rule is a pure function of the fingerprint and of what the user has set, and gives its choices or none. It need
not ask whether the user has set the key that it chooses: the plan leaves such choices out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from med_transfer.backbones import find_backbone
from med_transfer.cohorts.splits import FEW_PATIENTS, TEST_FRACTION
from med_transfer.config import as_typed
from med_transfer.errors.numbers import counted
from med_transfer.planning.fingerprint import CohortFingerprint, Triple
from med_transfer.planning.given_settings import GivenSettings
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
REGION_MM = REGION_SHAPE[1] * REGION_SPACING_MM[1]
WHOLE_SHAPE = (64, 96, 96)
MIN_EDGE, MAX_EDGE = 8, 1024  # voxels of an input along each axis
_AXIAL = "SPL"  # the axes of these triples
FROZEN = ("linear_probe", "attention_probe")  # strategies that train a head alone, which a test compares
OTHERWISE = (  # settings that fix the network or the features that its head reads; with one of them no plan pretrains
    *("backbone.pretrain", "backbone.weights", "backbone.pooled_stages", "backbone.instance_pooling"),
    *("transfer.strategy", "transfer.batch_norm", "transfer.align", "transfer.mapping", "transfer.regularise"),
    "input.output_range",
)
FOLDS, MIN_FOLDS, VALIDATION_FRACTION = 5, 2, 0.2  # the defaults of split and training, which a test compares
EPOCHS, EPOCH_SCANS, MIN_EPOCHS = 60, 256, 10
SIDE_WORDS = {*("left", "right", "l", "r", "links", "rechts", "gauche", "droit", "droite"), *"左右"}
_WORD = re.compile(r"[左右]|[A-Z]?[a-z]+|[A-Z]+")  # also of left_lung and LeftLung
FEW_OF_A_CLASS = 50  # patients; below, balanced accuracy on validation patients jumps by whole patients


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


def network_kind(cohort: CohortFingerprint, given: GivenSettings) -> Kind:
    """What kind of network suits the cohort, or is the one that the user has chosen."""
    at_regions = _region_in_view(cohort, given) == "roi"
    if not given.backbone:
        return "region" if at_regions else "slices"
    kinds: dict[str, Kind] = {"slices": "slices", "tiles": "tiles"}
    return kinds.get(given.backbone.partition("-")[0], "region" if at_regions else "whole")


def _region_in_view(cohort: CohortFingerprint, given: GivenSettings) -> str:
    """The user's ``input.region``, with ``auto`` resolved by the table, or else the one that its rule chooses."""
    if given.region == "auto":
        return "roi" if cohort.n_with_region == cohort.n_scans else "whole"
    return given.region or region(cohort, given)[0].value


def region(cohort: CohortFingerprint, given: GivenSettings) -> list[Choice]:
    """Where to look: at the table's regions, at an organ that is found in nearly all scans, at the body."""
    if cohort.n_with_region == cohort.n_scans:
        return [Choice("input.region", "roi", f"the table gives one for all {cohort.n_scans} scans")]
    organ = ORGANS.get(cohort.body_region, "") if _first_channel_in_hounsfield_units(cohort, given) else ""
    n_scans = len(cohort.scans)
    n_found = round(cohort.found(organ) * n_scans) if organ else 0
    if organ and cohort.found(organ) >= MIN_SHARE_FOUND:
        others = "; the others are rejected by name" if n_found < n_scans else ""
        return [Choice("input.region", organ, f"{organ} found in {n_found} of {n_scans} scans{others}")]
    missed = f"; {organ} in only {n_found} of {n_scans}" if organ else ""
    return [
        Choice("input.region", "foreground", f"no region in the table, and the body is found in every scan{missed}")
    ]


def _first_channel_in_hounsfield_units(cohort: CohortFingerprint, given: GivenSettings) -> bool:
    """Whether it is read as a CT and not normalised by each scan's own scale, as the organs' thresholds need."""
    own = given.input.channels[0] if given.input.channels else None
    modality = given.input.modality if given.has("input.modality") else cohort.modality
    read_as = (own and own.modality) or modality
    return read_as == "CT" and ((own and own.normalisation) or given.input.normalisation) != "zscore"


def modality(cohort: CohortFingerprint, given: GivenSettings) -> list[Choice]:
    """Which DICOM series are taken."""
    if not cohort.modality:
        return [Choice("input.modality", None, "the files state no modality and hold no Hounsfield units")]
    stated = "state or show it by their Hounsfield units" if cohort.modality == "CT" else "state it"
    return [Choice("input.modality", cohort.modality, f"the scans {stated}; others are rejected")]


def intensities(cohort: CohortFingerprint, given: GivenSettings) -> list[Choice]:
    """Windows of the body part as channels for CT, each scan's own scale for the rest; several scans as channels."""
    columns = [Choice("input.channels", list(cohort.channels), "a scan of each of these columns in every row")]
    further = columns if len(cohort.channels) > 1 else []
    own_window = given.input.window_hu is not None
    if ((given.has("input.modality") and given.input.modality) or cohort.modality) != "CT":
        why = "values without a unit: each scan is scaled individually"
        return further if own_window else [Choice("input.normalisation", "zscore", why), *further]
    if own_window or given.input.normalisation == "zscore":
        return further
    if network_kind(cohort, given) != "slices" or further:
        return further  # in the backbone's own window
    windows = WINDOWS[cohort.body_region]
    channels = [{"column": "scan", "window_hu": list(window)} for _, window in windows]
    names = ", ".join(f"{name} {low:g} to {high:g} HU" for name, (low, high) in windows)
    seen = cohort.body_region if cohort.body_region != "unknown" else "an unrecognised part of the body"
    return [Choice("input.channels", channels, f"windows for {seen}: {names}; red, green and blue of the network")]


def orientation(cohort: CohortFingerprint, given: GivenSettings) -> list[Choice]:
    """Slices as they were acquired, upright as a reader sees them, where the network looks at slices."""
    letters = _acquired(cohort)
    if network_kind(cohort, given) != "slices" or letters == _AXIAL:
        return []
    return [Choice("input.orientation", letters, f"the slices are {cohort.plane}: depth is across them, upright")]


def _acquired(cohort: CohortFingerprint) -> str:
    """The orientation whose depth runs across the slices, with rows and columns as they stand in most scans."""
    return {"coronal": "PIL", "sagittal": "LIP"}.get(cohort.plane, _AXIAL)


def _axes(cohort: CohortFingerprint, given: GivenSettings) -> str:
    """The orientation of the network's input: the user's, or the one of these rules, or the backbone's."""
    of_slices = _acquired(cohort) if network_kind(cohort, given) == "slices" else None
    return given.input.orientation or of_slices or find_backbone(given.backbone or REGION).input.orientation


def size(cohort: CohortFingerprint, given: GivenSettings) -> list[Choice]:
    """Voxels, and what they cover in mm."""
    sizes = {"region": _size_of_region, "slices": _size_of_slices, "tiles": _size_of_tiles, "whole": _size_of_whole}
    choices = sizes[network_kind(cohort, given)](cohort, given)
    if given.input.fit:
        return [choice for choice in choices if choice.key != "input.spacing_mm"]
    if not given.input.spacing_mm:
        return choices
    choices = [choice for choice in choices if choice.key != "input.fit"]  # either of the two determines the voxel size
    if network_kind(cohort, given) == "tiles":
        return choices
    return [
        *(choice for choice in choices if choice.key != "input.shape"),
        _shape_at(given.input.spacing_mm, cohort, given),
    ]


def _shape_at(spacing_mm: Triple, cohort: CohortFingerprint, given: GivenSettings) -> Choice:
    """As many voxels of the user's size as cover what is in view in nine tenths of the scans."""
    kind, box = network_kind(cohort, given), _box_in_view(cohort, given, 90)
    if kind == "region":
        box = max(box[0], REGION_MM), max(box[1], REGION_MM), max(box[2], REGION_MM)
    least = find_backbone(given.backbone or (SLICES if kind == "slices" else REGION)).input.minimum_shape
    box = geometry.reordered(box, _AXIAL, _axes(cohort, given))
    shape = [
        min(MAX_EDGE, max(smallest, MIN_EDGE, round(mm / voxel_mm)))
        for mm, voxel_mm, smallest in zip(box, spacing_mm, least, strict=True)
    ]
    return Choice("input.shape", shape, f"at your voxel size, covers {_mm(box)} mm: nine tenths of what is in view")


def _size_of_region(cohort: CohortFingerprint, given: GivenSettings) -> list[Choice]:
    chosen = given.backbone or REGION
    usual, longest = _usual_shape(REGION_SHAPE, cohort, given), cohort.given_mm(90)
    shape, edge_mm = given.input.shape or usual, max(REGION_MM, longest)
    spacing = [round(edge_mm / n, 2) for n in shape]
    why = f"{shape[1] * spacing[1]:.0f} mm: nine tenths of the regions are at most {longest:.0f} mm long"
    pretrained = "as in the backbone's pretraining"
    is_least = sorted(usual) != sorted(REGION_SHAPE)
    of_shape = f"the smallest that {chosen} takes" if is_least else "small enough to train on two cores"
    as_pretrained = chosen == REGION and shape == REGION_SHAPE and edge_mm == REGION_MM
    return [
        Choice("input.spacing_mm", spacing, f"{why}, {pretrained}" if as_pretrained else why),
        Choice("input.shape", list(shape), pretrained if chosen == REGION else of_shape),
        Choice("input.outside", "edge", "beyond the edge of a crop, the last voxels are repeated"),
    ]


def _size_of_whole(cohort: CohortFingerprint, given: GivenSettings) -> list[Choice]:
    shape = list(_usual_shape(WHOLE_SHAPE, cohort, given))
    return [
        Choice("input.fit", "isotropic", "isotropic voxels: proportions are kept"),
        Choice("input.shape", shape, "small enough to train on two cores"),
    ]


def _usual_shape(of_axial: tuple[int, int, int], cohort: CohortFingerprint, given: GivenSettings) -> tuple[int, ...]:
    """Depth, height and width of an axial scan in the input's axes, with as many voxels as the network needs."""
    least = find_backbone(given.backbone or REGION).input.minimum_shape
    return tuple(map(max, geometry.reordered(of_axial, _AXIAL, _axes(cohort, given)), least))


def _size_of_slices(cohort: CohortFingerprint, given: GivenSettings) -> list[Choice]:
    axes = _axes(cohort, given)
    depth_mm = geometry.reordered(_box_in_view(cohort, given), _AXIAL, axes)[0]
    slices = round(depth_mm / geometry.reordered(cohort.spacing_mm, _acquired(cohort), axes)[0])
    depth = min(MAX_SLICES, max(MIN_SLICES, slices))
    of_median = "as in the median scan" if depth == slices else f"instead of the {slices} of the median scan"
    why = f"{depth} slices, {of_median}: every scan is resampled to this number; in-plane size as for ImageNet"
    return [
        Choice("input.fit", "proportional", "proportions within a slice are kept"),
        Choice("input.shape", [depth, SLICE_PIXELS, SLICE_PIXELS], why),
        Choice("input.outside", "floor", "beyond the scan there is air"),
    ]


def _size_of_tiles(cohort: CohortFingerprint, given: GivenSettings) -> list[Choice]:
    needs, axes = find_backbone(given.backbone).input, _axes(cohort, given)
    box, tile = (geometry.reordered(each, _AXIAL, axes) for each in (_box_in_view(cohort, given, 90), REGION_SHAPE))
    own = needs.spacing_mm
    native = geometry.reordered(*((own, needs.orientation) if own else (REGION_SPACING_MM, _AXIAL)), axes)
    spacing = given.input.spacing_mm or native
    shape = [n * max(1, round(mm / (n * voxel_mm))) for mm, n, voxel_mm in zip(box, tile, spacing, strict=True)]
    return [
        Choice("input.spacing_mm", list(spacing), "as in the backbone's pretraining"),
        Choice("input.shape", shape, f"whole tiles over {_mm(box)} mm"),
        Choice("input.outside", "floor", "beyond the scan there is air, and such tiles are skipped"),
    ]


def _mm(box: Triple) -> str:
    return " x ".join(f"{mm:.0f}" for mm in box)


def _box_in_view(cohort: CohortFingerprint, given: GivenSettings, percentile: float = 50) -> Triple:
    """Along depth, height and width of an axial scan; of the body where what the user looks at was not measured."""
    where = _region_in_view(cohort, given)
    edge = cohort.given_mm(percentile)
    if where == "roi" and not math.isnan(edge):
        return edge, edge, edge
    return cohort.box_mm(where if cohort.found(where) else "body", percentile)


def backbone(cohort: CohortFingerprint, given: GivenSettings) -> list[Choice]:
    """Whose weights to start from: photographs on every slice for whole scans, nodules for regions."""
    kind = network_kind(cohort, given)
    start = (REGION, "pretrained on nodules in CT")
    if kind == "slices":
        start = (SLICES, "whole scans: a network pretrained on photographs, applied to every slice")
    choices = [Choice("backbone.name", *start)]
    if kind in ("slices", "tiles"):
        alike = f"combines what stands out in single {kind} with what all share"
        attends = given.strategy == "attention_probe"
        pooling = ("attention", "the strategy learns it") if attends else ("mean_max", alike)
        choices.append(Choice("backbone.instance_pooling", *pooling))
    return choices


def strategy(cohort: CohortFingerprint, given: GivenSettings) -> list[Choice]:
    """What is trained: with whole scans a linear head on frozen features, on regions the whole network."""
    if network_kind(cohort, given) == "region":
        return []
    if _asks_for_training(given):
        return _no_baseline(given, "whole scans take long to train on; set true to measure the transfer gain")
    few = f"{counted(cohort.rarest, 'patient')} of the rarest class"
    trained = "only the head is trained" if given.strategy in ("", *FROZEN) else "whole scans take long to train on"
    return [
        Choice("transfer.strategy.name", "linear_probe", f"{few}: frozen features and a linear head, in minutes"),
        *_no_baseline(given, f"{trained}; set true to measure the transfer gain"),
    ]


def _asks_for_training(given: GivenSettings) -> bool:
    """Whether the user has set what a linear head on frozen features does not have, and no strategy."""
    own = given.get("transfer.strategy", {})
    of_a_trained_one = isinstance(own, dict) and bool(own.keys() - {"name", "learning_rate"})
    further = (
        given.get("transfer.batch_norm") == "train" or given.get("transfer.regularise") or given.get("transfer.align")
    )
    return not given.strategy and (of_a_trained_one or bool(further))


def _no_baseline(given: GivenSettings, why: str) -> list[Choice]:
    """No baseline from scratch, unless the user falls back to it."""
    falls_back = given.get("transfer.on_harm") == "fallback"
    return [] if falls_back else [Choice("from_scratch_baseline", False, why)]


def random_start(cohort: CohortFingerprint, given: GivenSettings) -> list[Choice]:
    """A network without published weights learns as a whole: a head on random features would learn nothing."""
    has_weights = given.own_weights or find_backbone(given.backbone or SLICES).weights is not None
    if network_kind(cohort, given) == "region" or has_weights:
        return []
    why = f"{given.backbone} has no published weights: the whole network is trained"
    return [
        Choice("transfer.strategy.name", "auto", why),
        *_no_baseline(given, "nothing is transferred that could gain"),
    ]


def healthy_class(cohort: CohortFingerprint) -> str:
    """The class whose patients have nothing, by its name; empty where no class or several are called so."""
    names = [name for name in cohort.patients_of_class if _names_healthy(name)]
    return names[0] if len(names) == 1 else ""


def _names_healthy(name: str) -> bool:
    first, *further = re.split(r"[\s_-]+", name.strip().lower())
    return first in NEGATIONS if further else first in HEALTHY_NAMES


def pretraining(cohort: CohortFingerprint, given: GivenSettings) -> list[Choice]:
    """Whole head CT of few patients, some of whom have nothing: lesions are painted into these, and learned first."""
    healthy = str(given.get("backbone.pretraining.only_class") or healthy_class(cohort))
    if not (_can_be_pretrained(cohort, given) and cohort.patients_of_class.get(healthy, 0) >= MIN_CANVASES):
        return []
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
        *_heads_on_answers(given),
        *_smaller_slices(cohort, given),
    ]


def _can_be_pretrained(cohort: CohortFingerprint, given: GivenSettings) -> bool:
    """Whether the scans are as in the measurements, and the user leaves everything to it that it needs."""
    if not given.pretrains or any(map(given.has, OTHERWISE)) or not _first_channel_in_hounsfield_units(cohort, given):
        return False
    measured = cohort.modality == "CT" and cohort.body_region == "head" and given.backbone in ("", SLICES)
    columns = {channel.column for channel in given.input.channels} or set(cohort.channels)
    by_windows = all(channel.normalisation != "zscore" for channel in given.input.channels)
    few = cohort.rarest < FEW_OF_A_CLASS and len(cohort.patients_of_class) <= MAX_CLASSES_ANSWERED
    suits = measured and network_kind(cohort, given) == "slices" and not cohort.multilabel
    return suits and few and len(columns) == 1 and by_windows


def _heads_on_answers(given: GivenSettings) -> list[Choice]:
    if given.get("backbone.pretraining.head_reads") == "features":
        return []
    why = "with two inputs there is nothing to choose; both heads vote"
    return [
        Choice("transfer.probe.inverse_strengths", [1.0], why),
        Choice("calibration.method", "none", "the heads already give fitted probabilities"),
    ]


def _smaller_slices(cohort: CohortFingerprint, given: GivenSettings) -> list[Choice]:
    if given.input.spacing_mm:
        return []
    depth = next(choice.value[0] for choice in _size_of_slices(cohort, given) if choice.key == "input.shape")
    return [Choice("input.shape", [depth, LESION_PIXELS, LESION_PIXELS], "small enough for two cores in half an hour")]


def flips(cohort: CohortFingerprint, given: GivenSettings) -> list[Choice]:
    """A lesson seen in a mirror, where sides do not matter to the classes."""
    sided = [name for name in cohort.patients_of_class if SIDE_WORDS & {word.lower() for word in _WORD.findall(name)}]
    if sided:
        return [Choice("augmentation.flips", [], f"class {sided[0]!r} refers to a side")]
    if network_kind(cohort, given) == "region":
        return [Choice("augmentation.flips", [0, 1, 2], "a finding in its region has no left and right")]
    return []


def monitored(cohort: CohortFingerprint, given: GivenSettings) -> list[Choice]:
    """The validation figure that stops the training."""
    if network_kind(cohort, given) != "region" or cohort.rarest >= FEW_OF_A_CLASS:
        return []
    why = f"more stable than sensitivity with {counted(cohort.rarest, 'patient')} of the rarest class"
    return [Choice("training.monitor", "macro_auc", why)]


def folds(cohort: CohortFingerprint, given: GivenSettings) -> list[Choice]:
    """As many as the rarest class, or state of a finding, has patients for, where that is fewer than the default."""
    if given.get("split.kind") == "holdout" or "val" in cohort.table_split:
        return []
    divided = cohort.patients_to_divide or cohort.patients_of_class
    rarest = min(divided, key=lambda name: divided[name])
    kept_apart = int(not cohort.table_split and _share_of_test(cohort, given) > 0)  # one for the test
    most = divided[rarest] - kept_apart
    if not MIN_FOLDS <= most < FOLDS:
        return []
    part = "each fold and the test part have" if kept_apart else "each fold has"
    return [Choice("split.folds", most, f"{counted(divided[rarest], 'patient')} of class {rarest!r}: {part} one")]


def epochs(cohort: CohortFingerprint, given: GivenSettings) -> list[Choice]:
    """So many that a large cohort's training draws no more scans than a small one's."""
    drawn = round(cohort.n_scans * _share_of_training(cohort, given))  # in an epoch, by one fold model
    drawn = max(drawn, int(given.get("training.epoch_scans") or 0))
    fewer = max(MIN_EPOCHS, round(EPOCHS * EPOCH_SCANS / drawn))
    trains = given.strategy not in FROZEN or given.get("from_scratch_baseline") is not False
    if network_kind(cohort, given) != "region" or fewer >= EPOCHS or not trains:
        return []
    why = (
        f"an epoch draws {drawn} scans instead of {EPOCH_SCANS}: as many in all as in {EPOCHS} epochs of a small cohort"
    )
    return [Choice("training.epochs", fewer, why)]


def _share_of_training(cohort: CohortFingerprint, given: GivenSettings) -> float:
    """Share of the scans that one fold model trains on: not the test's, its validation's, nor those that stop it."""
    test = _share_of_test(cohort, given)
    stopping = 0.0 if test else float(given.get("split.val_fraction", VALIDATION_FRACTION))
    return (1 - test) * (1 - _share_of_validation(cohort, given)) * (1 - stopping)


def _share_of_test(cohort: CohortFingerprint, given: GivenSettings) -> float:
    if cohort.table_split:
        return cohort.table_split.get("test", 0) / cohort.n_scans
    fraction = given.get("split.test_fraction")
    if fraction is not None:
        return float(fraction)
    if int(given.get("split.repeats") or 1) > 1:
        return 0.0
    needs_test = given.searches or given.get("fusion") or given.get("split.kind") == "holdout"
    return TEST_FRACTION if needs_test or cohort.n_patients >= FEW_PATIENTS else 0.0


def _share_of_validation(cohort: CohortFingerprint, given: GivenSettings) -> float:
    """Share of the scans that are not the test's."""
    if "val" in cohort.table_split:
        return cohort.table_split["val"] / (cohort.n_scans - cohort.table_split.get("test", 0))
    if given.get("split.kind") == "holdout":
        return float(given.get("split.val_fraction", VALIDATION_FRACTION))
    return 1 / int(given.get("split.folds") or next((choice.value for choice in folds(cohort, given)), FOLDS))


Rule = Callable[[CohortFingerprint, GivenSettings], list[Choice]]
RULES: tuple[Rule, ...] = (
    *(backbone, strategy, region, modality, intensities, orientation, size),
    *(flips, monitored, folds, epochs),
    *(random_start, pretraining),  # over what the others chose
)
