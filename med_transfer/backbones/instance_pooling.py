"""A backbone of slices or tiles whose instances are pooled, overlap and answer as a config says."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

from med_transfer.backbones import networks
from med_transfer.backbones.encoder import Encoder
from med_transfer.backbones.instance_choice import AS_BUILT, InstanceChoice
from med_transfer.backbones.spec import BackboneSpec, Builder
from med_transfer.errors import BackboneError

if TYPE_CHECKING:  # whichever is used has been imported by then
    from med_transfer.backbones.networks.instances import InstanceEncoder
    from med_transfer.backbones.networks.slices import SliceEncoder
    from med_transfer.backbones.networks.tiles import TileEncoder


def with_instances(spec: BackboneSpec, choice: InstanceChoice) -> BackboneSpec:
    """The entry with a network that pools and overlaps so.

    Raises:
        BackboneError: its network sees a scan as a whole, or has no tiles.
    """
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
    if choice == AS_BUILT:
        return spec
    return replace(spec.built_by(built_with(spec.build, choice)), instance_choice=choice)


def built_with(build: Builder, choice: InstanceChoice) -> Builder:
    """What builds the same network of slices or tiles, pooling and overlapping so."""
    return build if choice == AS_BUILT else partial(_built, build, choice)


def answering(build: Builder, *, published: bool) -> Builder:
    """What builds the same network of slices, whose last stage is what it answers of each.

    Args:
        published: whether its first map is that of the network as it was published.
    """
    return partial(_answering, build, published)


def _answering(build: Builder, published: bool) -> Encoder:
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
