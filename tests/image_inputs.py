"""``python -m image_inputs FOLDER``: a bundle with random weights and two studies, for ``make image-check``."""

from __future__ import annotations

import sys
from pathlib import Path

from peers import series
from tiny_bundle import tiny_bundle

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    tiny_bundle(folder / "bundle")
    for number in (1, 2):
        series(folder / f"scans/{number}", patient=f"P-{number}", study=number)
