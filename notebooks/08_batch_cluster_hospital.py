# %% [markdown]
# # Batch, cluster and hospital
#
# The same bundle, unchanged, applied to a folder, in shards on a cluster, and behind a PACS.

# %%
import os
from pathlib import Path

import med_transfer as mt
from med_transfer.hospital.config import read_node_config
from med_transfer.inference.folder import BatchSettings
from med_transfer.inference.shards import Shard, merge

work = Path(os.environ.get("MED_TRANSFER_WORK", "work")).resolve()  # shared by all notebooks
own = os.environ.get("MED_TRANSFER_COHORT")  # your own cohort.csv instead of phantoms
table = Path(own) if own else mt.datasets.fetch("phantoms", work / "chest")

# %%
small = ("input.shape=[16, 32, 32]", "input.spacing_mm=[3.0, 1.5, 1.5]", "split.kind=holdout")  # for a laptop
quick = (*small, "transfer.strategy=linear_probe", "from_scratch_baseline=false")
run = mt.Run(work / "first")  # of the first notebook, if it has run: finetune would read its test scans again
if not run.bundle.exists():
    run = mt.finetune(table, out=run.folder, overrides=(*quick, "explain.gallery=0"))

# %% [markdown]
# ## A batch
#
# One row per scan. A bad scan gets a row with the reason and does not stop the batch. Running it again on the same
# output folder resumes.

# %%
predictor = mt.load_bundle(run.bundle)
batch = predictor.predict_folder(table, work / "batch", settings=BatchSettings(workers=1))
print(batch.n_ok, "predicted,", batch.n_rejected + batch.n_failed, "refused:", batch.table.name)

# %% [markdown]
# ## Shards
#
# Each shard can run on any machine; `merge` refuses while one is missing. `med-transfer predict --write-sbatch 8`
# writes the SLURM job.

# %%
for number in (1, 2):
    predictor.predict_folder(table, work / "shards", settings=BatchSettings(workers=1, shard=Shard(number, 2)))
whole, rows = merge(sorted((work / "shards").glob("shard-*")), work / "merged")
print(len(rows), "rows")

# %% [markdown]
# ## What the bundle contains

# %%
print(predictor.record.backbone.name, predictor.record.labels)

# %% [markdown]
# ## Behind a PACS
#
# `med-transfer serve BUNDLE -c node.yaml` receives studies, predicts them and sends results back. By default it is
# closed: nobody may send, nobody gets results, and it listens on this machine only. `node.yaml` opens it. With `shadow:
# true` it predicts and sends nothing; start with that ([docs/hospital](../docs/hospital/README.md)).

# %%
node = work / "node.yaml"
node.write_text("folder: node\ncallers: [{ae_title: CT1, address: 10.1.2.0/24}]\nshadow: true\n", encoding="utf-8")
read_node_config(node).model_dump(include={"ae_title", "bind", "port", "callers", "destinations", "shadow"})
