# %% [markdown]
# # My own DICOM folder: what was rejected and why
#
# A folder exported from a PACS contains scouts, broken exports and files that are not scans. Every series is checked
# and gets a verdict before it becomes a volume. Set `MED_TRANSFER_COHORT` to a table of your own; the folder that
# contains it is searched.

# %%
import csv
import os
from collections import Counter
from pathlib import Path

import med_transfer as mt
from med_transfer.cohorts.indexing import write_index
from med_transfer.errors import ScanError

work = Path(os.environ.get("MED_TRANSFER_WORK", "work")).resolve()  # shared by all notebooks
own = os.environ.get("MED_TRANSFER_COHORT")  # your own cohort.csv instead of phantoms
table = Path(own) if own else mt.datasets.fetch("phantoms", work / "chest")

# %%
index = write_index(table.parent, work / "found/cohort.csv")
print(f"{index.n_listed} series listed, {index.n_rejected} rejected, {index.n_ignored} other files")

# %% [markdown]
# ## The quality table
#
# Series marked **accept** are used as they are, **repair** after the repair stated in `reasons`, **reject** never.

# %%
with index.quality.open(newline="", encoding="utf-8") as file:
    series = list(csv.DictReader(file))
print(Counter(row["verdict"] for row in series))
for row in series:
    if row["verdict"] not in ("accept", ""):
        print(f"{row['verdict']}: {Path(row['scan']).name}: {row['reasons']}")

# %% [markdown]
# Reading a rejected series raises an error with the same reason, the location, and what to do:

# %%
rejected = [row for row in series if row["verdict"] == "reject" and row["format"] == "dicom"]
for row in rejected[:1]:
    try:
        mt.read_scan((index.quality.parent / row["scan"]).resolve())
    except ScanError as error:
        print(type(error).__name__, error.problem, sep=": ")

# %% [markdown]
# ## Look at what is left
#
# Upside down, the wrong organ, an arm: a glance finds what no rule catches.

# %%
accepted = next(row for row in series if row["verdict"] == "accept")
volume = mt.read_scan((index.quality.parent / accepted["scan"]).resolve())
mt.view_of(volume)

# %% [markdown]
# Next: link the labels with `med-transfer index SCANS -o cohort.csv --labels labels.csv`.
