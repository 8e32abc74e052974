"""What the network will see of a cohort, before anything is trained."""

from med_transfer.finetuning.preview.previewing import Preview, preview
from med_transfer.finetuning.preview.seen import SeenScan

__all__ = ["Preview", "SeenScan", "preview"]
