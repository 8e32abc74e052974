"""Everything known about each family of published weights, a file a family."""

from med_transfer.backbones.catalogue import (
    ct_fm,
    medicalnet,
    merlin,
    monai_bundles,
    residual,
    suprem,
    swin_ssl,
    video,
    voco,
)

SPECS = (
    *residual.SPECS,
    *medicalnet.SPECS,
    *merlin.SPECS,
    *ct_fm.SPECS,
    *suprem.SPECS,
    *swin_ssl.SPECS,
    *voco.SPECS,
    *monai_bundles.SPECS,
    *video.SPECS,
)
