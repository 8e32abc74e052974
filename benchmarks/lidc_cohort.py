"""Write the cohort table of the LIDC-IDRI nodule crops (TCIA, CC BY 3.0; Armato et al. 2011, Med Phys 38:915).

    python benchmarks/lidc_cohort.py --label texture --out runs/lidc_texture

Labels are radiologists' ratings, not pathology; the size of a crop reveals the size of its nodule.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

COLUMNS = ("scan", "patient", "label", "diameter_mm")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write cohort.csv of the LIDC-IDRI nodule crops.")
    parser.add_argument("--data", type=Path, default=os.environ.get("MED_TRANSFER_DATA"), help="holds lidc_nodules/")
    parser.add_argument("--label", choices=("texture", "malignancy"), default="texture")
    parser.add_argument("--with-masks", action="store_true", help="add the nodule masks")
    parser.add_argument("--out", type=Path, required=True, help="folder for cohort.csv")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("name the data folder with --data or MED_TRANSFER_DATA")
    table = write_table(arguments.data / "lidc_nodules", arguments.label, arguments.out, arguments.with_masks)
    print(table)


def write_table(nodules: Path, label: str, out: Path, with_masks: bool = False) -> Path:
    """Write ``out/cohort.csv`` with paths into ``nodules``; returns its path."""
    nodules = nodules.absolute()
    with (nodules / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    out.mkdir(parents=True, exist_ok=True)
    with (out / "cohort.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *(["mask"] if with_masks else [])], extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            paths = {"scan": nodules / row["scan"], "mask": nodules / row["mask"]}
            writer.writerow({**row, **paths, "label": row[label]})
    return out / "cohort.csv"


if __name__ == "__main__":
    main()
