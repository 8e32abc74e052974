# %% [markdown]
# # Whole scans: plan and preview
#
# Before any training: the properties of the cohort, a config that suits it with the reason for each choice, and what
# the network would see. Set `MED_TRANSFER_COHORT` to use your own scans.

# %%
import os
from pathlib import Path

import med_transfer as mt
from med_transfer.config import load_config

work = Path(os.environ.get("MED_TRANSFER_WORK", "work")).resolve()  # shared by all notebooks
own = os.environ.get("MED_TRANSFER_COHORT")  # your own cohort.csv instead of phantoms
table = Path(own) if own else mt.datasets.fetch("phantoms", work / "chest")

# %%
whole = ("input.region=whole", "input.spacing_mm=null")  # planned voxels would suit the table's regions
planned = mt.plan(table, whole, quick=True)
for sentence in planned.sentences:
    print(sentence)

# %% [markdown]
# ## Squeezed into a small cube
#
# The whole scan in the input of a network that was trained on crops. The preview says what is lost.

# %%
mt.preview(table, per_class=1, draws=0, overrides=whole)

# %% [markdown]
# ## As tiles
#
# The same scan as overlapping boxes, in voxels of the size that the network knows; their features are pooled into one
# row. For thick slices, the alternative is a 2D network of photographs on each slice (`slices-...`).

# %%
tiles = load_config(
    mt.FinetuneConfig,
    None,
    (
        "backbone.name=tiles-med-transfer-small",
        "input.region=foreground",
        "input.spacing_mm=[3.0, 3.0, 3.0]",
        "input.shape=[32, 96, 96]",
        "backbone.instance_pooling=mean_max",
    ),
)
mt.preview(table, tiles, per_class=1, draws=0)
