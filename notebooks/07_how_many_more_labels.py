# %% [markdown]
# # How many more labels
#
# The network is trained on ever larger subsets of the patients, and the learning curve is extrapolated. The answer is
# the interval, not the single number.

# %%
import os
from pathlib import Path

import med_transfer as mt
from med_transfer.config import load_config
from med_transfer.labelling import BudgetSettings, label_budget, next_labels

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
    print(forecast.name, forecast.outcome, forecast.more, forecast.interval)
budget

# %% [markdown]
# ## Which scans to label next
#
# Scans that the network is unsure of, unlike each other, one per patient. Here the table stands in for unlabelled
# scans.

# %%
run = mt.finetune(table, out=work / "first", overrides=(*quick, "explain.gallery=0"))  # a finished run is just opened

# %%
chosen = next_labels(run.bundle, table, work / "next.csv", n=5)
print(chosen.n_chosen, "in", chosen.table.name)
