"""Finding available weights: in installed packages, in the user's folder, and at given paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from med_transfer.backbones import (
    BackboneSpec,
    Encoder,
    InstanceChoice,
    LoadedBackbone,
    backbones,
    find_backbone,
    from_scratch,
    load_backbone,
    weights_at_hand,
)
from med_transfer.backbones.channels import Channels
from med_transfer.backbones.instance_choice import AS_BUILT
from med_transfer.backbones.weights.store import store_folder
from med_transfer.bundle import bundle_folder, versions
from med_transfer.errors import BackboneError, MissingExtra, WeightsNotFound
from med_transfer.finetuning.data_setup import refuse_adapted_source

Build = Callable[[], Encoder]
Check = Callable[[str, BackboneSpec, Path | None], "Candidate"]  # of name, catalogue entry, given path


@dataclass(frozen=True)
class Network:
    """An encoder that is built when it is needed.

    Attributes:
        key: identifies the weights in the cache of features.
        spec: its catalogue entry.
        seed: of random weights; None for weights of a source.
        build: makes the encoder, on the CPU.
    """

    key: str
    spec: BackboneSpec
    seed: int | None
    build: Build = field(compare=False, repr=False)

    def load(self) -> Encoder:
        """Build the encoder, on the CPU and in evaluation mode. Raises BackboneError."""
        return self.build().eval()


class _ReusedBuild:
    """Gives out the encoder that a check has built once, and builds it again for later calls.

    So a weights file is opened only once if features are computed once, and the encoder can be freed afterwards.
    """

    def __init__(self, encoder: Encoder, build: Build) -> None:
        self._encoder, self._build = encoder, build

    def __call__(self) -> Encoder:
        encoder, self._encoder = self._encoder, None
        return self._build() if encoder is None else encoder


@dataclass(frozen=True)
class Candidate:
    """A backbone with weights of a source.

    Attributes:
        name: the backbone, with the path if one was given.
        spec: its catalogue entry.
        weights: the given path (a bundle's folder); None for weights found by name.
        sha256: of the weights file.
        build: makes the encoder.
    """

    name: str
    spec: BackboneSpec
    weights: Path | None
    sha256: str
    build: Build = field(compare=False, repr=False)

    @property
    def network(self) -> Network:
        """The network with the weights of the source."""
        return Network(f"{self._kind} {self.sha256}", self.spec, None, self.build)

    @property
    def _kind(self) -> str:
        colours = "as colours" if self.spec.as_colours else ""
        pooling, share = self.spec.instance_choice
        overlap = "" if share is None else f"overlap {share:g}"
        return " ".join(filter(None, (self.spec.name, pooling, overlap, colours)))

    def control(self, seed: int) -> Network:
        """The same network with random weights, which also depend on the versions of the libraries."""
        made_by = "".join(f" {name} {versions()[name]}" for name in ("med-transfer", "monai", "torch"))
        size = f"{self.spec.parameters} {self.spec.stage_channels}"
        key = f"{self._kind} {size} random {seed}{made_by}"
        return Network(key, self.spec, seed, lambda: from_scratch(self.spec, seed).encoder)


@dataclass(frozen=True)
class Candidates:
    """The candidates that can be ranked, and for the others with available weights name to reason."""

    ready: tuple[Candidate, ...]
    left_out: dict[str, str]


def find_candidates(
    names: Sequence[str] | None,
    given: Sequence[tuple[str, Path]] = (),
    accept_licence: str = "",
    channels: Channels = 1,
    instances: InstanceChoice = AS_BUILT,
) -> Candidates:
    """All candidates with available weights; each weights file is opened and checked once.

    Args:
        names: only these backbones, which must be usable; None: all.
        given: backbone and path of weights: a checkpoint, a safetensors file, a bundle or a run folder.
        accept_licence: name of a restricted licence that the user accepts.
        channels: of the input.
        instances: how slices or tiles are cut and pooled, for backbones that have them.

    Raises:
        UnknownBackbone: a name is not in the catalogue.
        WeightsNotFound: no weights are available for a backbone that was named, or for any.
        BackboneError: as :func:`med_transfer.backbones.load_backbone`, for backbones named or given; a bundle has
            adapters.
    """
    check = partial(_checked, accept_licence=accept_licence, channels=channels, instances=instances)
    specs = [find_backbone(name) for name in names] if names is not None else list(backbones().values())
    ready = [_from_file(find_backbone(name), path, check) for name, path in given]
    given_names = {candidate.spec.name for candidate in ready}
    left_out: dict[str, str] = {}
    for spec in specs:
        if names is not None and spec.name not in given_names:
            ready.append(_from_name(spec, check))
        elif names is None:
            ready += _if_available(spec, check, left_out)
    if not ready:
        raise WeightsNotFound(
            "no backbone's weights are at hand",
            expected=f"weights in {store_folder()}, an extra, or --weights NAME=PATH",
            action="`med-transfer backbones list` says where each one's weights come from",
        )
    unique = {(candidate.spec.name, candidate.sha256): candidate for candidate in reversed(ready)}
    return Candidates(tuple(reversed(unique.values())), left_out)


def _from_file(spec: BackboneSpec, path: Path, check: Check) -> Candidate:
    weights = bundle_folder(path)
    refuse_adapted_source(weights)
    return check(f"{spec.name} ({path})", spec, weights)


def _from_name(spec: BackboneSpec, check: Check) -> Candidate:
    if spec.weights is None:
        raise WeightsNotFound(
            f"backbone {spec.name} has no published weights",
            expected="weights of your own: --weights",
            action="Without them it starts from random values, and there is nothing to transfer",
        )
    return check(spec.name, spec, None)


def _if_available(spec: BackboneSpec, check: Check, left_out: dict[str, str]) -> list[Candidate]:
    """The backbone if its weights are available; if they cannot be used, the reason goes to ``left_out``."""
    if not weights_at_hand(spec):
        return []
    try:
        return [_from_name(spec, check)]
    except (MissingExtra, WeightsNotFound):
        return []
    except BackboneError as error:
        left_out[spec.name] = str(error)
    return []


def _checked(
    name: str,
    spec: BackboneSpec,
    weights: Path | None,
    *,
    accept_licence: str,
    channels: Channels,
    instances: InstanceChoice,
) -> Candidate:
    pooling = instances.pooling if spec.instances else None
    choice = InstanceChoice(pooling, instances.tile_overlap if spec.instances == "tiles" else None)

    def load() -> LoadedBackbone:
        return load_backbone(spec.name, weights, accept_licence=accept_licence, channels=channels, instances=choice)

    loaded = load()
    build = _ReusedBuild(loaded.encoder, lambda: load().encoder)
    return Candidate(name, loaded.spec, weights, loaded.sha256 or "", build)
