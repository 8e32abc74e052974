"""A backbone of slices or tiles whose instances are pooled as a config says."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import cast

from med_transfer.backbones.encoder import Encoder, InstancePooling
from med_transfer.backbones.networks.instances import InstanceEncoder
from med_transfer.backbones.spec import BackboneSpec, Builder
from med_transfer.errors import BackboneError


def with_instance_pooling(spec: BackboneSpec, pooling: InstancePooling | None) -> BackboneSpec:
    """The entry with a network that pools so; None: as it is.

    Raises:
        BackboneError: its network sees a scan as a whole.
    """
    if pooling is None:
        return spec
    if not spec.instances:
        raise BackboneError(
            f"{pooling} with {spec.name}, which sees a scan as a whole",
            where="backbone.instance_pooling",
            expected="a backbone of slices or tiles",
            action="Leave backbone.instance_pooling out, or choose a backbone.name of slices-... or tiles-...",
        )
    return replace(spec.built_by(pooled_by(spec.build, pooling)), instance_pooling=pooling)


def pooled_by(build: Builder, pooling: InstancePooling | None) -> Builder:
    """What builds the same network of slices or tiles, pooling so; None: as it is."""
    return build if pooling is None else partial(_build_pooled, build, pooling)


def _build_pooled(build: Builder, pooling: InstancePooling) -> Encoder:
    encoder = cast(InstanceEncoder, build())
    encoder.pool_by(pooling)
    return encoder
