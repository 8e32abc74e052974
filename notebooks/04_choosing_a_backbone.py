# %% [markdown]
# # Choosing a backbone
#
# Which pretrained network suits this cohort can be measured before training: how well its frozen features tell the
# classes apart, against the same network with random weights. Only training folds are looked at.

# %%
import os
from pathlib import Path

import med_transfer as mt
from med_transfer.phantoms import PhantomConfig, write_cohort

work = Path(os.environ.get("MED_TRANSFER_WORK", "work")).resolve()  # all notebooks share it
own = os.environ.get("MED_TRANSFER_COHORT")  # your own cohort.csv in the place of phantoms
table = Path(own) if own else work / "chest/cohort.csv"
if not table.exists():
    small = {"shape": (24, 72, 72), "difficulty": 0.2, "patients_per_class": 12}
    write_cohort(table.parent, PhantomConfig(seed=2, format="mixed", faults=True, **small))

# %%
known = mt.list_backbones()
print(len(known), "backbones; for example", ", ".join(list(known)[:5]))

# %% [markdown]
# Without `names`, all whose weights are at hand are measured, each against itself with random weights. Here one, so that
# it takes seconds.

# %%
chosen = mt.select_backbone(
    table, out=work / "selection", names=["med-transfer-small"], overrides=("split.kind=holdout",)
)
chosen

# %%
for score in chosen.ranking:
    print(score.name)
print(chosen.recommended or chosen.to_try, chosen.reason, sep=": ")

# %% [markdown]
# Does its order foretell the result? [What was measured](../docs/measured/selection.md#does-its-order-foretell-the-result). Whether
# weights fit your scans at all, without labels: `med-transfer backbones verify NAME --scans FOLDER`.
