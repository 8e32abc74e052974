"""``python -m med_transfer`` is ``med-transfer``."""

from med_transfer.cli.app import main

main()
