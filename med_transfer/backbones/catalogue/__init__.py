"""Everything known about each family of published weights, a file a family."""

from med_transfer.backbones.catalogue import imagenet, medicalnet, merlin, residual

SPECS = (*residual.SPECS, *medicalnet.SPECS, *merlin.SPECS, *imagenet.SPECS)
