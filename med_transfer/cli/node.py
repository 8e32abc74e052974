"""``med-transfer node``: what the hospital node has done and has to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from med_transfer.cli.options import AsJson, SignedWith, example

if TYPE_CHECKING:
    from med_transfer.hospital.queue import Queue

NAME = "node"
app = typer.Typer(help="What the hospital node has done and has to do.", no_args_is_help=True, rich_markup_mode=None)
NodeFile = Annotated[Path, typer.Option("--config", "-c", help="The node's node.yaml.")]


def _queue(config: Path) -> Queue:
    from med_transfer.errors import ScanNotFound
    from med_transfer.hospital.config import read_node_config
    from med_transfer.hospital.queue import Queue

    node = read_node_config(config)
    if not node.queue_file.exists():
        raise ScanNotFound("no node has run here", where=node.folder, action=f"Run med-transfer serve with -c {config}")
    return Queue(node.queue_file, node.retries)


@app.command(epilog=example("node status -c node.yaml"))
def status(config: NodeFile, as_json: AsJson = False) -> None:
    """How many studies are where, what is stuck and why. Names no patient."""
    from med_transfer.cli.terminal import say, say_json

    queue = _queue(config)
    stuck = [study for study in queue.studies() if study.reason]
    if as_json:
        studies = [{"study": s.id, "state": s.state, "attempts": s.attempts, "reason": s.reason} for s in stuck]
        say_json(
            {
                "studies": queue.counts(),
                "stuck": studies,
                "set_aside": dict(queue.reasons()),
                "bundles": queue.bundles_in_use(),
            }
        )
        return
    for route, mark in queue.bundles_in_use().items():
        say(f"bundle {mark} is in use" + (f" for {route}" if route else ""))
    say(", ".join(f"{number} {state}" for state, number in queue.counts().items()) or "no study yet")
    for study in stuck:
        say(f"study {study.id}: {study.state}, {study.reason}")
    for reason, count in queue.reasons():
        say(f"set aside: {count} {reason}")


@app.command(epilog=example("node retry -c node.yaml"))
def retry(config: NodeFile, study: Annotated[str, typer.Argument(help="One study, as status names it.")] = "") -> None:
    """Try dead letters again, at once."""
    from med_transfer.cli.terminal import say

    say(f"{_queue(config).retry(study)} to be tried again")


@app.command(epilog=example("node export -c node.yaml -o record.jsonl"))
def export(config: NodeFile, out: Annotated[Path, typer.Option("--out", "-o", help="A .jsonl file.")]) -> None:
    """Write the record, an entry a line."""
    import json

    from med_transfer.atomic import write_text
    from med_transfer.cli.terminal import say

    entries = _queue(config).entries()
    write_text(out, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))
    say(f"{len(entries)} entries: {out}")


@app.command(epilog=example("node audit -c node.yaml"))
def audit(config: NodeFile) -> None:
    """Check that no entry of the record was changed, and say its last hash, to be kept elsewhere."""
    from med_transfer.cli.terminal import say

    result = _queue(config).audit()
    if result.broken:
        say(f"entry {result.broken} of {result.entries} does not follow from the one before it: the record was changed")
        raise typer.Exit(1)
    say(f"{result.entries} entries, unbroken; last hash {result.last_hash}")


@app.command(epilog=example("node use runs/second -c node.yaml"))
def use(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or the run folder that holds one.")],
    config: NodeFile,
    route: Annotated[str, typer.Option(help="Of node.yaml, where it has several.")] = "",
    key: SignedWith = None,
) -> None:
    """Take a bundle from the next study on, also while the node runs; the one before is kept."""
    import os

    from med_transfer.cli.terminal import say
    from med_transfer.hospital import require_extra

    require_extra()
    from med_transfer.hospital import bundles
    from med_transfer.hospital.config import read_node_config
    from med_transfer.hospital.queue import Queue

    os.umask(0o077)
    node = read_node_config(config)
    say(f"{bundles.use(node, Queue(node.queue_file, node.retries), bundle, route, key)} is in use")


@app.command(epilog=example("node rollback -c node.yaml"))
def rollback(
    config: NodeFile, route: Annotated[str, typer.Option(help="Of node.yaml, where it has several.")] = ""
) -> None:
    """Take the bundle again that was in use before, from the next study on."""
    from med_transfer.cli.terminal import say
    from med_transfer.hospital import require_extra

    require_extra()
    from med_transfer.hospital import bundles
    from med_transfer.hospital.config import read_node_config

    say(f"{bundles.rollback(read_node_config(config), _queue(config), route)} is in use")


@app.command(epilog=example("node fetch -c node.yaml --dates 20260101-20260131 --modality CT"))
def fetch(
    config: NodeFile,
    study: Annotated[str, typer.Option(help="StudyInstanceUID.")] = "",
    accession: Annotated[str, typer.Option(help="Accession number.")] = "",
    dates: Annotated[str, typer.Option(help="Study date, 20260131, or two: 20260101-20260131.")] = "",
    modality: Annotated[str, typer.Option(help="CT, MR or PT: studies that have such a series.")] = "",
    most: Annotated[int, typer.Option(min=1, help="No more studies than this.")] = 100,
) -> None:
    """Ask the PACS for studies and get them to the node, which must be running where it is asked by C-MOVE."""
    import os

    from med_transfer.cli.terminal import say
    from med_transfer.hospital import require_extra

    require_extra()
    from med_transfer.hospital.config import read_node_config
    from med_transfer.hospital.fetching import fetch_studies, study_query
    from med_transfer.hospital.queue import Queue

    os.umask(0o077)  # what is kept of patients is for its owner only
    query, node = study_query(study, accession, dates, modality), read_node_config(config)
    whole, rest = fetch_studies(node, Queue(node.queue_file, node.retries), query, most, say)
    raise typer.Exit(0 if not rest else 1 if whole else 3)


@app.command("process", epilog=example("node process runs/first IN OUT"))
def process_folder(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or the run folder that holds one.")],
    images: Annotated[
        Path | None, typer.Argument(help="DICOM files; without it, the environment of mercure or a MAP says where.")
    ] = None,
    out: Annotated[Path | None, typer.Argument(help="For SR, page and result.json.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    key: SignedWith = None,
) -> None:
    """One folder in, results as DICOM out: a module for mercure, or a MONAI application package."""
    import os

    from med_transfer.cli.terminal import say
    from med_transfer.hospital import require_extra

    require_extra()
    from med_transfer.hospital.analysis import require_usable
    from med_transfer.hospital.folders import folders, process
    from med_transfer.inference import load_bundle

    given, wanted = (images, out) if images and out else folders(os.environ)
    predictor = load_bundle(bundle, device, key)
    require_usable(predictor, bundle)
    analyses = process(predictor, given, wanted)
    n_ok = sum(analysis.prediction.status == "ok" for analysis in analyses)
    say(f"{n_ok} of {len(analyses)} series predicted: {wanted / 'result.json'}")
    raise typer.Exit(0 if n_ok == len(analyses) else 1 if n_ok else 3)
