"""Batch inference as a SLURM job array, one shard per task."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from med_transfer.atomic import write_bytes
from med_transfer.errors import UsageError

SCRIPT_FILE = "predict.sbatch"
_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name=med-transfer
#SBATCH --array=1-{n}
#SBATCH --cpus-per-task=4
#SBATCH --mem=12G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output="{logs}/slurm-%A_%a.log"
# Adapt the lines above to your cluster, then: sbatch {script}
# The same again after a failure: what is done is not done again. When all tasks have ended:
#   {merge}
set -euo pipefail
exec {command} --shard "$SLURM_ARRAY_TASK_ID/{n}"
"""


def write_sbatch(
    out: Path, n: int, program: Sequence[str], arguments: Sequence[str], of_merge: Sequence[str] = ()
) -> Path:
    """Write ``out/predict.sbatch`` and return its path.

    Args:
        out: folder of the batch.
        n: number of tasks, one per shard.
        program: command words that start med-transfer on the cluster.
        arguments: arguments of ``predict``, without ``--shard``.
        of_merge: options of the ``merge`` command that follows, which the script shows in a comment.

    Raises:
        UsageError: the folder's name contains a quote or line break, which a SLURM script cannot hold.
        OutputError: the script cannot be written.
    """
    if any(character in str(out) for character in '\n\r"'):
        raise UsageError(repr(str(out)), where="--out", expected="a folder's name without quotes and line ends")
    script = out / SCRIPT_FILE
    shards = " ".join([f"{shlex.quote(str(out))}/shard-*-of-{n}", "-o", shlex.quote(f"{out}-merged"), *of_merge])
    text = _SCRIPT.format(
        n=n,
        logs=str(out).replace("%", "%%"),  # SLURM replaces patterns such as %j
        script=shlex.quote(str(script)),
        merge=f"{shlex.join(program)} merge {shards}",
        command=shlex.join([*program, "predict", *arguments]),
    )
    write_bytes(script, os.fsencode(text))  # names of folders need not be UTF-8
    return script
