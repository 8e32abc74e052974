"""Imports of a child process that pretrains an encoder, with MONAI as commands load it, which takes half the time."""

from med_transfer.backbones.monai_alone import monai_alone

with monai_alone():
    import med_transfer.pretraining.side_by_side  # noqa: F401 - holds the function that the process is asked to run
