"""Everything known about each family of published weights, a file a family."""

from med_transfer.backbones.catalogue import genesis, medicalnet, merlin, nnunet, residual, stunet

SPECS = (*residual.SPECS, *medicalnet.SPECS, *merlin.SPECS, *genesis.SPECS, *stunet.SPECS, *nnunet.SPECS)
