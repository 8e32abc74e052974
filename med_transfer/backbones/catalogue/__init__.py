"""Everything known about each family of published weights, a file a family."""

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
    video,
    voco,
)

SPECS = (
    *small.SPECS,
    *residual.SPECS,
    *medicalnet.SPECS,
    *merlin.SPECS,
    *ct_fm.SPECS,
    *suprem.SPECS,
    *genesis.SPECS,
    *swin_ssl.SPECS,
    *voco.SPECS,
    *stunet.SPECS,
    *nnunet.SPECS,
    *monai_bundles.SPECS,
    *video.SPECS,
    *imagenet.SPECS,
)
