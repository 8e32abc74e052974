# %% [markdown]
# # How many more labels
#
# Trains on ever larger parts of the patients at hand, watches how performance grows, and follows the curve. The
# interval is the answer, not the number.

# %%
import os
from pathlib import Path

import med_transfer as mt
from med_transfer.config import load_config
from med_transfer.labelling import BudgetSettings, label_budget, next_labels

work = Path(os.environ.get("MED_TRANSFER_WORK", "work")).resolve()  # all notebooks share it
own = os.environ.get("MED_TRANSFER_COHORT")  # your own cohort.csv in the place of phantoms
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
# ## Which scans next
#
# Those that the network is unsure of, unlike each other, one a patient. Here the table stands in for scans without labels.

# %%
run = mt.finetune(table, out=work / "first", overrides=(*quick, "explain.gallery=0"))  # a finished run is only opened

# %%
chosen = next_labels(run.bundle, table, work / "next.csv", n=5)
print(chosen.n_chosen, "in", chosen.table.name)
