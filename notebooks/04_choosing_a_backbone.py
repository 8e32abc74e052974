# %% [markdown]
# # Choosing a backbone
#
# How well a pretrained network suits this cohort can be measured before training: how well its frozen features separate
# the classes, compared with the same network with random weights. Only the training folds are used.

# %%
import os
from pathlib import Path

import med_transfer as mt

work = Path(os.environ.get("MED_TRANSFER_WORK", "work")).resolve()  # shared by all notebooks
own = os.environ.get("MED_TRANSFER_COHORT")  # your own cohort.csv instead of phantoms
table = Path(own) if own else mt.datasets.fetch("phantoms", work / "chest")

# %%
known = mt.list_backbones()
print(len(known), "backbones; for example", ", ".join(list(known)[:5]))

# %% [markdown]
# Without `names`, every backbone whose weights are available is measured, each against itself with random weights. Here
# it is only one, which takes seconds.

# %%
chosen = mt.select_backbone(
    table,
    out=work / "selection",
    names=["med-transfer-small"],
    overrides=("split.kind=holdout", "input.shape=[16, 32, 32]", "input.spacing_mm=[3.0, 1.5, 1.5]"),
)
chosen

# %%
for score in chosen.ranking:
    print(score.name)
print(chosen.recommended or chosen.to_try, chosen.reason, sep=": ")

# %% [markdown]
# Does the ranking predict the result? See the
# [measurements](../docs/measured/selection.md#does-the-ranking-predict-the-result). To check without labels whether
# weights fit your scans at all: `med-transfer backbones verify NAME --scans FOLDER`.
