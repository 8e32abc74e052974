# %% [markdown]
# # A first model
#
# Synthetic chest CT stands in for a cohort, so that everything runs without a network in a minute. With
# `MED_TRANSFER_COHORT=cohort.csv` the same notebook runs on scans of your own. Research use only.

# %%
import os
from pathlib import Path

import med_transfer as mt
from med_transfer.cohorts import region_of_case

work = Path(os.environ.get("MED_TRANSFER_WORK", "work")).resolve()  # all notebooks share it
own = os.environ.get("MED_TRANSFER_COHORT")  # your own cohort.csv in the place of phantoms
table = Path(own) if own else mt.datasets.fetch("phantoms", work / "chest")

# %% [markdown]
# ## The cohort
#
# One row a scan: its patient, its label, and where the finding lies.

# %%
cohort = mt.Cohort.read(table)
cohort.counts()  # class: (scans, patients)

# %% [markdown]
# A `Volume` knows where its voxels lie in the patient and what was found out about its geometry.

# %%
case = cohort.cases[0]
volume = mt.read_scan(case.path)
print(volume.voxels.shape, volume.spacing_mm, volume.orientation, volume.verdict)
mt.view_of(volume)

# %% [markdown]
# ## Train
#
# The network that comes with the package stays as it is, and a linear head learns on its features: seconds. Leave
# `transfer.strategy` out and the network learns too; leave `from_scratch_baseline` out and the gain of the transfer is
# measured ([05](05_strategies_and_negative_transfer.ipynb)).

# %%
small = ("input.shape=[16, 32, 32]", "input.spacing_mm=[3.0, 1.5, 1.5]", "split.kind=holdout")  # for a laptop
quick = (*small, "transfer.strategy=linear_probe", "from_scratch_baseline=false")
run = mt.finetune(table, out=work / "first", overrides=(*quick, "explain.gallery=0"))  # a finished run is only opened

# %% [markdown]
# ## What came out
#
# Of each class how many test scans there were, which share was found, and its 95 % interval. With this few scans the
# intervals are wide: that is the message.

# %%
for name, rates in run.metrics.classes.items():
    print(f"{name:13} n {rates.n}  sensitivity {rates.sensitivity.value:.2f}  95 % CI {rates.sensitivity.ci95}")
run

# %% [markdown]
# The whole report is one file, and the bundle goes to batch runs and to the hospital:

# %%
print(run.report, run.bundle, sep="\n")

# %% [markdown]
# ## A new scan

# %%
region, _ = region_of_case(case)
mt.load_bundle(run.bundle).predict(case.path, region)
