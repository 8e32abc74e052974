"""``python -m med_transfer.cli.reference docs/reference`` writes the pages: ``make docs``."""

from __future__ import annotations

import sys
from pathlib import Path

from med_transfer.atomic import write_text
from med_transfer.cli.reference.pages import pages

for name, text in pages().items():
    write_text(Path(sys.argv[1]) / name, text)
