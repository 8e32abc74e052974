"""Catalogue of published weights, one file per family."""

from med_transfer.backbones.catalogue import (
    ct_fm,
    genesis,
    imagenet,
    medicalnet,
    merlin,
    monai_bundles,
    nnunet,
    residual,
    small,
    stunet,
    suprem,
    swin_ssl,
    tiles,
    video,
    voco,
)

FAMILIES = (  # in the order of `med-transfer backbones list`
    small,
    residual,
    tiles,
    medicalnet,
    merlin,
    ct_fm,
    suprem,
    genesis,
    swin_ssl,
    voco,
    stunet,
    nnunet,
    monai_bundles,
    video,
    imagenet,
)
SPECS = tuple(spec for family in FAMILIES for spec in family.SPECS)
