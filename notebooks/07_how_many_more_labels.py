# %% [markdown]
# # How many more labels
#
# The network is trained on ever larger subsets of the patients, and the learning curve is extrapolated. The answer is
# the interval, not the single number.

# %%
import os
from pathlib import Path

from IPython.display import Image

import med_transfer as mt
from med_transfer.config import load_config
from med_transfer.labelling import BudgetSettings, label_budget, next_labels
from med_transfer.labelling.report import sentence
from med_transfer.phantoms import PhantomConfig, write_cohort

work = Path(os.environ.get("MED_TRANSFER_WORK", "work")).resolve()  # shared by all notebooks
own = os.environ.get("MED_TRANSFER_COHORT")  # your own cohort.csv instead of phantoms
table = Path(own) if own else mt.datasets.fetch("phantoms", work / "chest")

# %%
small = ("input.shape=[16, 32, 32]", "input.spacing_mm=[3.0, 1.5, 1.5]", "split.kind=holdout")  # for a laptop
quick = (*small, "transfer.strategy=linear_probe", "from_scratch_baseline=false")
config = load_config(mt.FinetuneConfig, None, quick)
settings = BudgetSettings(target=0.97, measure="macro_auc", n_sizes=4, repeats=1, n_draws=50)
budget = label_budget(mt.Cohort.read(table), config, work / "budget", settings)
for forecast in budget.forecasts:
    print(sentence(forecast, settings.measure))
Image(filename=budget.folder / "budget.png")

# %% [markdown]
# ## Which scans to label next
#
# Scans that the network is unsure of, unlike each other, one per patient. Scans of patients who trained or test the
# network are left out. Here other phantoms stand in for unlabelled scans, whose table needs no labels; for your own
# cohort, set `MED_TRANSFER_UNLABELLED` to a table or folder.

# %%
run = mt.Run(work / "first")  # of the first notebook, if it has run: finetune would read its test scans again
if not run.bundle.exists():
    run = mt.finetune(table, out=run.folder, overrides=(*quick, "explain.gallery=0"))

# %%
unlabelled = Path(os.environ.get("MED_TRANSFER_UNLABELLED", work / "unlabelled/cohort.csv"))
if not unlabelled.exists():
    shapes = PhantomConfig(task="shape", seed=3, patients_per_class=6, shape=(24, 72, 72), format="nifti")
    write_cohort(unlabelled.parent, shapes)
chosen = next_labels(run.bundle, unlabelled, work / "next.csv", n=5)
print(chosen.table.read_text(encoding="utf-8"))
