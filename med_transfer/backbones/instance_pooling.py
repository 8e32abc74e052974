"""Configure a backbone of slices or tiles: pooling of instances, overlap of tiles, and lesion answers."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, cast, get_args

from med_transfer.backbones import networks
from med_transfer.backbones.encoder import Encoder
from med_transfer.backbones.instance_choice import AS_BUILT, MAX_TILE_OVERLAP, InstanceChoice, InstancePooling
from med_transfer.backbones.spec import BackboneSpec, Builder
from med_transfer.errors import BackboneError, UsageError
from med_transfer.errors.given_numbers import is_finite

if TYPE_CHECKING:  # the networks import torch; builders import what they use
    from med_transfer.backbones.networks.instances import InstanceEncoder
    from med_transfer.backbones.networks.slices import SliceEncoder
    from med_transfer.backbones.networks.tiles import TileEncoder


def with_instances(spec: BackboneSpec, choice: InstanceChoice) -> BackboneSpec:
    """Return the entry with a network that pools and overlaps as chosen.

    Raises:
        BackboneError: the network processes scans whole, or has no tiles to overlap.
        UsageError: there is no such pooling, or the overlap is out of range.
    """
    _require_possible(choice)
    if choice.pooling is not None and not spec.instances:
        raise BackboneError(
            f"{choice.pooling} with {spec.name}, which sees a scan as a whole",
            where="backbone.instance_pooling",
            expected="a backbone of slices or tiles",
            action="Leave backbone.instance_pooling out, or choose a backbone.name of slices-... or tiles-...",
        )
    if choice.tile_overlap is not None and spec.instances != "tiles":
        raise BackboneError(
            f"{choice.tile_overlap:g} with {spec.name}, which has no tiles",
            where="backbone.tile_overlap",
            expected="a backbone of tiles",
            action="Leave backbone.tile_overlap out, or choose a backbone.name of tiles-...",
        )
    return spec if choice == AS_BUILT else _entry_with(spec, choice)


@lru_cache(maxsize=32)  # the network is built to count its parameters
def _entry_with(spec: BackboneSpec, choice: InstanceChoice) -> BackboneSpec:
    return replace(spec.built_by(built_with(spec.build, choice)), instance_choice=choice)


def _require_possible(choice: InstanceChoice) -> None:
    if choice.pooling is not None and choice.pooling not in get_args(InstancePooling):
        expected = f"one of {', '.join(get_args(InstancePooling))}"
        raise UsageError(f"found {choice.pooling!r}", where="pooling", expected=expected)
    if choice.tile_overlap is not None and not (
        is_finite(choice.tile_overlap) and 0 <= choice.tile_overlap <= MAX_TILE_OVERLAP
    ):
        expected = f"a share of a tile's edge, from 0 to {MAX_TILE_OVERLAP}"
        raise UsageError(f"found {choice.tile_overlap!r}", where="tile_overlap", expected=expected)


def built_with(build: Builder, choice: InstanceChoice) -> Builder:
    """Return a builder of the same network of slices or tiles, with this choice of pooling and overlap."""
    return build if choice == AS_BUILT else partial(_built, build, choice)


def answering(build: Builder, *, published: bool) -> Builder:
    """Return a builder of the same network of slices with one more stage: its lesion answers for each slice.

    Args:
        build: builder of the network of slices.
        published: whether the published network's deepest map comes first, beside the network's own maps.
    """
    return partial(_build_with_answers, build, published)


def _build_with_answers(build: Builder, published: bool) -> Encoder:
    encoder = cast("SliceEncoder", build())
    encoder.answer()
    return networks.beside_published(cast("SliceEncoder", build()), encoder) if published else encoder


def _built(build: Builder, choice: InstanceChoice) -> Encoder:
    encoder = cast("InstanceEncoder", build())
    if choice.pooling is not None:
        encoder.pool_by(choice.pooling)
    if choice.tile_overlap is not None:
        cast("TileEncoder", encoder).overlap_by(choice.tile_overlap)
    return encoder
