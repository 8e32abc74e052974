# %% [markdown]
# # Strategies and negative transfer
#
# The source task is the shape of a lesion; the target task is its texture. The strategy says how much of the network
# may change; whether the source helped at all is measured, not assumed. The settings are tiny: the point is how it
# works, not how well.

# %%
import os
from pathlib import Path

import med_transfer as mt
from med_transfer.phantoms import PhantomConfig, write_cohort

work = Path(os.environ.get("MED_TRANSFER_WORK", "work")).resolve()  # shared by all notebooks
own = os.environ.get("MED_TRANSFER_COHORT")  # your own cohort.csv instead of phantoms
table = Path(own) if own else mt.datasets.fetch("phantoms", work / "chest")

# %% [markdown]
# ## The source

# %%
tiny = (
    "backbone.name=resnet18-w8",  # the smallest, with random weights: the source is trained here
    "input.shape=[16, 16, 16]",
    "input.spacing_mm=[2.5, 2.0, 2.0]",
    "split.kind=holdout",
    "training.epochs=2",
    "training.epoch_scans=32",
    "explain.gallery=0",
)
source = work / "source/cohort.csv"
if not source.exists():
    shapes = {"shape": (24, 72, 72), "difficulty": 0.2, "patients_per_class": 8}
    write_cohort(source.parent, PhantomConfig(task="shape", seed=1, format="nifti", **shapes))
learned = mt.finetune(source, out=work / "source-run", overrides=(*tiny, "from_scratch_baseline=false"))

# %% [markdown]
# ## Two strategies
#
# `layerwise_lr_decay` trains everything, deep stages faster. `linear_probe` freezes the network. Both are compared with
# the same network trained from scratch, on the same patients with the same budget.

# %%
start = (*tiny, f"backbone.weights={learned.bundle}")
runs = {
    name: mt.finetune(table, out=work / f"strategy-{name}", overrides=(*start, f"transfer.strategy={name}"))
    for name in ("layerwise_lr_decay", "linear_probe")
}
for name, run in runs.items():
    gain = run.metrics.transfer_gain
    print(f"{name}: macro AUC {run.metrics.macro_auc.value:.2f}; minus scratch {gain.macro_auc.ci95}: {gain.verdict}")

# %% [markdown]
# The verdict is *gain* or *harm* only if an interval excludes zero; *none* means that no difference was shown, which is
# not the same as equal. `transfer.on_harm=fallback` keeps the network from scratch if transfer does harm on validation
# scans.
#
# ## Which one is better?

# %%
_, probe = mt.compare([run.folder for run in runs.values()])  # each against the first
print("probe minus layerwise, macro AUC", probe.macro_auc.value, probe.macro_auc.ci95, "on", probe.n_shared, "scans")
runs["linear_probe"]
