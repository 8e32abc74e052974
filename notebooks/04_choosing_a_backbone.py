# %% [markdown]
# # Choosing a backbone
#
# Which pretrained network suits this cohort can be measured before training: how well its frozen features tell the
# classes apart, against the same network with random weights. Only training folds are looked at.

# %%
import os
from pathlib import Path

import med_transfer as mt

work = Path(os.environ.get("MED_TRANSFER_WORK", "work")).resolve()  # all notebooks share it
own = os.environ.get("MED_TRANSFER_COHORT")  # your own cohort.csv in the place of phantoms
table = Path(own) if own else mt.datasets.fetch("phantoms", work / "chest")

# %%
known = mt.list_backbones()
print(len(known), "backbones; for example", ", ".join(list(known)[:5]))

# %% [markdown]
# Without `names`, all whose weights are at hand are measured, each against itself with random weights. Here one, so that
# it takes seconds.

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
# Does the ranking predict the result? [What was measured](../docs/measured/selection.md#does-the-ranking-predict-the-result). Whether
# weights fit your scans at all, without labels: `med-transfer backbones verify NAME --scans FOLDER`.
