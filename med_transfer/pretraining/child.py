"""What a process of its own loads to pretrain an encoder; MONAI as a command has it, which takes half as long."""

from med_transfer.backbones.monai_alone import monai_alone

with monai_alone():
    import med_transfer.pretraining.side_by_side  # noqa: F401 - it holds the function that the process is asked for
