"""``med-transfer merge``: the shards of a batch as one table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, get_args

import typer

from med_transfer.cli.options import Also, AsJson, ReportLanguage
from med_transfer.cli.terminal import say, say_json
from med_transfer.errors.numbers import counted

NAME = "merge"
EXAMPLE = "predictions/shard-1-of-2 predictions/shard-2-of-2 -o predictions-merged"


def command(
    shards: Annotated[list[Path], typer.Argument(help="Folders of all shards, as written by predict --shard.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the merged predictions.csv.")],
    also: Also = None,
    language: ReportLanguage = "en",
    as_json: AsJson = False,
) -> None:
    """Merge the shards of a batch; refused if one is missing, unfinished or from another bundle.

    The exit code is that of one run over all scans: 1 if some were not predicted, 3 if none was.
    """
    from med_transfer.inference.shards import merge
    from med_transfer.inference.summary import write_beside
    from med_transfer.predictions.formats import known_formats
    from med_transfer.predictions.record import Status, exit_code

    formats = known_formats(also or ())  # before the work, not after it
    table, rows = merge(shards, out)
    write_beside(table, formats, language, rows=rows)
    found = Counter(row.status for row in rows)
    counts = {status: found[status] for status in get_args(Status)}
    if as_json:
        say_json({"rows": len(rows)} | counts | {"table": str(table)})
    else:
        say(f"{counted(len(rows), 'row')}: {', '.join(f'{number} {status}' for status, number in counts.items())}")
        say(str(table))
    raise typer.Exit(exit_code(counts["ok"], counts["rejected"] + counts["failed"]))
