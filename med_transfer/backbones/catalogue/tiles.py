"""Networks for small inputs applied to tiles of a whole scan, with their usual weights."""

from __future__ import annotations

from dataclasses import replace

from med_transfer.backbones import networks
from med_transfer.backbones.catalogue import merlin, residual, small
from med_transfer.backbones.spec import BackboneSpec, Triple

_OF_THE_NETWORK = (r"^(?!tiled\.|attention\.)", "tiled.")  # published names are under ``tiled.`` here


def _tiled(base: BackboneSpec, tile: Triple, parameters_of_attention: int) -> BackboneSpec:
    """An entry's network on tiles of this many voxels, with the entry's own spacing and window."""
    size = " x ".join(map(str, tile))
    renamed = replace(base.renaming, replace=(*base.renaming.replace, _OF_THE_NETWORK))
    notes = (
        f"`{base.name}` on tiles of {size} voxels that overlap by a quarter of their edge, for whole scans: "
        "input.shape may be any size, and tiles without anything but background are skipped. Gated attention "
        "(arXiv:1802.04712) weighs the tiles, equally before it has learnt; see docs/transfer.md, Whole scans."
    )
    return replace(
        base,
        name=f"tiles-{base.name}",
        build=lambda: networks.TileEncoder(base.build(), tile),
        parameters=base.parameters + parameters_of_attention,
        renaming=renamed,
        instances="tiles",
        notes=notes,
    )


SPECS = (
    *(_tiled(entry, (16, 32, 32), 65_920) for entry in (small.SPECS[0], residual.SPECS[0])),
    _tiled(merlin.SPECS[1], (32, 96, 96), 524_672),  # Astra
)
