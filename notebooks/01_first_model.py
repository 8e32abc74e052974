# %% [markdown]
# # A first model
#
# The cohort is synthetic chest CT, so everything runs offline in a minute. Set `MED_TRANSFER_COHORT=cohort.csv` to run
# the notebook on your own scans. Research use only.

# %%
import os
from pathlib import Path

import med_transfer as mt
from med_transfer.cohorts import region_of_case

work = Path(os.environ.get("MED_TRANSFER_WORK", "work")).resolve()  # shared by all notebooks
own = os.environ.get("MED_TRANSFER_COHORT")  # your own cohort.csv instead of phantoms
table = Path(own) if own else mt.datasets.fetch("phantoms", work / "chest")

# %% [markdown]
# ## The cohort
#
# One row per scan: the patient, the label, and the location of the finding.

# %%
cohort = mt.Cohort.read(table)
cohort.counts()  # class: (scans, patients)

# %% [markdown]
# A `Volume` knows where its voxels lie in the patient, and carries the verdict on its geometry.

# %%
case = cohort.cases[0]
volume = mt.read_scan(case.path)
print(volume.voxels.shape, volume.spacing_mm, volume.orientation, volume.verdict)
mt.view_of(volume)

# %% [markdown]
# ## Train
#
# The network that ships with the package is frozen, and a linear head is trained on its features, which takes seconds.
# Without `transfer.strategy` the network is trained too; without `from_scratch_baseline=false` the transfer gain is
# measured ([05](05_strategies_and_negative_transfer.ipynb)). Called again, the cell trains nothing, but reads the test
# scans again, which is counted; `mt.Run(work / "first")` only opens the run.

# %%
small = ("input.shape=[16, 32, 32]", "input.spacing_mm=[3.0, 1.5, 1.5]", "split.kind=holdout")  # for a laptop
quick = (*small, "transfer.strategy=linear_probe", "from_scratch_baseline=false")
run = mt.finetune(table, out=work / "first", overrides=(*quick, "explain.gallery=0"))

# %% [markdown]
# ## Results
#
# For each class: the number of test scans, the sensitivity, and its 95 % interval. With so few scans the intervals are
# wide, and that is the point.

# %%
for name, rates in run.metrics.classes.items():
    print(f"{name:13} n {rates.n}  sensitivity {rates.sensitivity.value:.2f}  95 % CI {rates.sensitivity.ci95}")
run

# %% [markdown]
# The report, a single file, and the bundle, which batch runs and the hospital node load:

# %%
print(run.report, run.bundle, sep="\n")

# %% [markdown]
# ## A new scan

# %%
region, _ = region_of_case(case)
mt.load_bundle(run.bundle).predict(case.path, region)
