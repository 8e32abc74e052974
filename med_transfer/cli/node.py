"""``med-transfer node``: what the hospital node has done and has to do."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from med_transfer.atomic import atomic_path
from med_transfer.cli.options import AsJson, Bundle, Device, SignedWith, example
from med_transfer.cli.terminal import say, say_json
from med_transfer.errors import ScanNotFound, UsageError
from med_transfer.errors.numbers import counted
from med_transfer.hospital import require_extra
from med_transfer.hospital.settings.peers import FHIR_PREFIX

if TYPE_CHECKING:
    from med_transfer.hospital.config import NodeConfig
    from med_transfer.hospital.queue import Queue
    from med_transfer.hospital.review.access.access import Access
    from med_transfer.hospital.review.access.audit import AuditTrail

NAME = "node"
app = typer.Typer(
    help="Operate the hospital node: status, records, images, users and bundles.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
NodeFile = Annotated[Path, typer.Option("--config", "-c", help="node.yaml of the node.")]
Route = Annotated[str, typer.Option(help="Route of node.yaml, if it has several.")]


def _node(config: Path) -> NodeConfig:
    from med_transfer.hospital.config import read_node_config

    return read_node_config(config)


def _private_node(config: Path) -> NodeConfig:
    """node.yaml; what this process writes from now on is for its owner only, since it tells of patients."""
    from med_transfer.hospital.folder_owner import require_not_root_for_another

    os.umask(0o077)
    node = _node(config)
    require_not_root_for_another(node)
    return node


def _queue(config: Path) -> Queue:
    from med_transfer.hospital.queue import Queue

    node = _node(config)
    _require_one_of(config, node.queue_file)
    return Queue(node.queue_file, node.retries)


def _require_one_of(config: Path, *databases: Path) -> None:
    """Raise ScanNotFound if a node has none of these. Opening one makes it, and ``restore`` needs an empty folder."""
    if not any(database.exists() for database in databases):
        where, action = databases[0].parent, f"Run med-transfer serve with -c {config}"
        raise ScanNotFound("no node has run here", where=where, action=action)


@app.command(epilog=example("node status -c node.yaml"))
def status(config: NodeFile, as_json: AsJson = False) -> None:
    """Show how many studies are in which state, and what is stuck and why. No patient names."""
    from med_transfer.hospital.queue.workitems import Workitems

    queue = _queue(config)
    in_use = queue.bundles_in_use(_node(config).rules_by_route)
    stuck, items = [study for study in queue.studies() if study.reason], Workitems(queue)
    if as_json:
        studies = [{"study": s.id, "state": s.state, "attempts": s.attempts, "reason": s.reason} for s in stuck]
        say_json(
            {
                "studies": queue.counts(),
                "stuck": studies,
                "without_destination": queue.without_destination(),
                "set_aside": dict(queue.reasons()),
                "bundles": in_use,
                "workitems": items.counts(),
            }
        )
        return
    for route, mark in in_use.items():
        say(f"bundle {mark} is in use" + (f" for {route}" if route else ""))
    say(", ".join(f"{number} {state}" for state, number in queue.counts().items()) or "no study yet")
    for study in stuck:
        say(f"study {study.id}: {study.state}, {study.reason}")
    _say_without_destination(queue)
    for state, count in items.counts().items():
        say(counted(count, f"{state} work item"))
    for item in items.open():
        say(
            f"work item {item.name}: {item.state}, study {item.study or 'unknown'}"
            + f", {item.reason}" * bool(item.reason)
        )
    for reason, count in queue.reasons():
        say(f"set aside: {count} {reason}")


@app.command(epilog=example("node retry -c node.yaml"))
def retry(
    config: NodeFile, study: Annotated[str, typer.Argument(help="Study, as named by node status; default: all.")] = ""
) -> None:
    """Retry dead letters now."""
    queue, names = _queue(config), [one.name for one in _node(config).receivers]
    queue.abandon(names, time.time())
    count = queue.retry(study) - queue.abandon(names, time.time())  # the second time, what has just been retried
    say(f"{count} to be retried")
    _say_without_destination(queue)


def _say_without_destination(queue: Queue) -> None:
    for name, count in queue.without_destination().items():
        say(f"{count} for {name}, which node.yaml does not name: med-transfer node redirect {name} NEW")


@app.command(epilog=example("node redirect PACS@10.1.2.4:104 PACS@10.1.2.5:104 -c node.yaml"))
def redirect(
    old: Annotated[str, typer.Argument(help="Former destination, as named by node status.")],
    new: Annotated[str, typer.Argument(help="Destination of node.yaml: AE@address:port, or its URL.")],
    config: NodeFile,
) -> None:
    """Send the results that a renamed or replaced destination has not stored to the one that takes its place."""
    node, queue = _node(config), _queue(config)
    commits = {one.name: getattr(one, "storage_commitment", False) for one in node.receivers}
    if old in commits:
        raise UsageError(
            f"node.yaml still names {old}", where=config, expected="a destination that was taken out of it"
        )
    alike = [name for name in commits if name.startswith(FHIR_PREFIX) == old.startswith(FHIR_PREFIX)]
    if new not in alike:
        raise UsageError(f"no destination {new}", where=config, expected=f"one of {', '.join(alike) or 'none'}")
    moved = queue.redirect(old, (new, commits[new]), time.time())
    say(f"{counted(moved, 'result')} redirected to {new}")


@app.command(epilog=example("node export -c node.yaml -o record.jsonl"))
def export(
    config: NodeFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write (.jsonl).")],
    accesses: Annotated[
        bool,
        typer.Option(
            "--accesses", help="Export the accesses to the review page instead, as FHIR AuditEvent resources."
        ),
    ] = False,
) -> None:
    """Export the record, one entry per line."""
    node = _node(config)
    _require_one_of(config, node.queue_file, *([node.access_file] if accesses else []))
    queue = None if accesses else _queue(config)
    trail = _audit_trail(config)
    written = _write_lines(out, queue.entries() if queue else trail.events())
    trail.tell_here("exported accesses" if accesses else "exported record", detail=f"{written} entries")
    say(f"{written} entries: {out}")


def _write_lines(out: Path, entries: Iterable[dict[str, Any]]) -> int:
    """Write entries as lines of JSON, one at a time, as a record may be larger than memory; returns their number."""
    written = 0
    with atomic_path(out) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for entry in entries:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            written += 1
    return written


@app.command(epilog=example("node labels -c node.yaml -o labels.csv"))
def labels(
    config: NodeFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="Cohort table to write (.csv), for finetune.")],
    route: Route = "",
) -> None:
    """Export the reviewers' verdicts as a cohort table, with patients under pseudonyms."""
    require_extra()
    from med_transfer.hospital.config import require_route
    from med_transfer.hospital.review.feedback import export_labels

    node = _node(config)
    require_route(node, route)
    exported = export_labels(node, _queue(config), out, route)
    _audit_trail(config).tell_here("exported labels", detail=f"{exported.rows} labels")
    say(f"{exported.rows} labels: {out}")
    if exported.without_images:
        say(
            f"{exported.without_images} more are of studies whose images have been deleted here; fetch these to use "
            "their labels"
        )
    if exported.of_other_classes:
        say(f"{exported.of_other_classes} more were chosen among other classes, those of an earlier bundle")
    if exported.without_series:
        say(f"{exported.without_series} more are on studies of which no single series was analysed")
    say(f"{exported.key}: the key of the patients' pseudonyms; keep it secret")


@app.command(epilog=example("node audit -c node.yaml"))
def audit(config: NodeFile) -> None:
    """Check that no entry of the records was changed, and print their last hashes, to be kept elsewhere."""
    audits = {"entries": _queue(config).audit()}
    if _node(config).access_file.exists():
        audits["entries of the review page"] = _audit_trail(config).audit()
    for what, result in audits.items():
        if result.broken:
            say(f"{result.entries} {what}: number {result.broken} does not follow from the one before: it was changed")
        else:
            say(f"{result.entries} {what}, unbroken; last hash {result.last_hash}")
    raise typer.Exit(1 if any(result.broken for result in audits.values()) else 0)


@app.command(epilog=example("node prune -c node.yaml --dry-run"))
def prune(
    config: NodeFile,
    days: Annotated[
        float | None,
        typer.Option(min=0, help="Days to keep images after a study is done; default: study.keep_days of node.yaml."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be deleted, without deleting it.")
    ] = False,
) -> None:
    """Delete images of completed studies now; anything not yet sent or committed is kept, as are results."""
    require_extra()
    from med_transfer.hospital.incoming import finished_studies, forget, forget_aside
    from med_transfer.hospital.review.access.audit import Seen

    node, queue = _node(config), _queue(config)
    keep_days = node.study.keep_days if days is None else days
    if keep_days is None:
        raise UsageError("keeps images for good", where="study.keep_days", expected="--days, or a number in node.yaml")
    before = time.time() - keep_days * 86400
    gone = finished_studies(node.folder, queue, before)
    if gone and not dry_run:
        trail = _audit_trail(config)  # before anything is deleted, which must not happen unrecorded
        uids = {study.id: study.study_uid for study in queue.studies()}
        gone = forget(
            node.folder, queue, before, lambda study: trail.tell_here("deleted images", Seen(study, uids[study]))
        )
    for one in gone:
        say(f"study {one.study}: {counted(one.files, 'image')}, {one.bytes / 1e6:,.1f} MB")
    verb = "would be deleted" if dry_run else "deleted"
    say(f"{counted(sum(one.files for one in gone), 'image')} of {counted(len(gone), 'study', 'studies')} {verb}")
    if not dry_run and (count := forget_aside(node.folder, queue, before)):
        say(f"{counted(count, 'image')} that had been set aside deleted")


@app.command(epilog=example("node page -c node.yaml"))
def page(config: NodeFile) -> None:
    """Serve only the review page until stopped; serve does so beside the node if node.yaml has a page."""
    require_extra()
    from med_transfer.hospital.log_lines import set_up_log
    from med_transfer.hospital.review.serving import serve_page

    node = _private_node(config)
    set_up_log(node.log.format, node.log.level)
    serve_page(node, say)


users = typer.Typer(help="Manage the users of the review page.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(users, name="user")
UserName = Annotated[str, typer.Argument(help="User name, as it appears in the audit record.")]


def _audit_trail(config: Path) -> AuditTrail:
    from med_transfer.hospital.review.access.audit import AuditTrail
    from med_transfer.hospital.review.access.database import Database

    node = _private_node(config)
    return AuditTrail(Database(node.access_file), node.ae_title)


def _access(config: Path) -> Access:
    require_extra()
    from med_transfer.hospital.review.access.access import Access
    from med_transfer.hospital.settings.page import ReviewPage

    node = _private_node(config)
    return Access(node, node.page or ReviewPage())


@users.command("add", epilog=example("node user add ann -c node.yaml --role reviewer"))
def add_user(
    name: UserName,
    config: NodeFile,
    role: Annotated[
        Literal["reader", "reviewer", "operator"],
        typer.Option(help="reader: view; reviewer: view and judge; operator: also see who did what."),
    ] = "reader",
) -> None:
    """Add a user, or change role and password; the password is prompted for, or read from stdin."""
    if sys.stdin.isatty():
        password = getpass("Password: ")
        if getpass("Again: ") != password:
            raise UsageError("the two passwords differ")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    access = _access(config)
    access.users.put(name, role, password)
    access.audit.tell_here("added user", detail=f"{name} as {role}")
    say(f"{name} may sign in as {role}" + ", but not while node.yaml has page.oidc" * bool(access.provider))


@users.command("list", epilog=example("node user list -c node.yaml"))
def list_users(config: NodeFile) -> None:
    """List the users who may sign in with a password."""
    if not _private_node(config).access_file.exists():  # see _require_one_of
        return
    for user in _access(config).users.all():
        say(f"{user.name} {user.role}")


@users.command("remove", epilog=example("node user remove ann -c node.yaml"))
def remove_user(name: UserName, config: NodeFile) -> None:
    """Remove a user; their sessions end at once, and what they did stays in the record."""
    access = _access(config) if _private_node(config).access_file.exists() else None
    if not access or not access.users.remove(name):
        raise UsageError(f"no user {name}", action="med-transfer node user list names them")
    access.audit.tell_here("removed user", detail=name)
    say(f"{name} may no longer sign in")


@app.command(epilog=example("node use runs/second -c node.yaml"))
def use(bundle: Bundle, config: NodeFile, route: Route = "", key: SignedWith = None) -> None:
    """Switch to a bundle from the next study on, even while the node runs; the previous one is kept."""
    require_extra()
    from med_transfer.hospital import bundles
    from med_transfer.hospital.queue import Queue

    node = _private_node(config)
    say(f"{bundles.use(node, Queue(node.queue_file, node.retries), bundle, route, key)} is in use")


@app.command(epilog=example("node rollback -c node.yaml"))
def rollback(config: NodeFile, route: Route = "") -> None:
    """Switch back to the previous bundle from the next study on."""
    require_extra()
    from med_transfer.hospital.updates import rollback

    say(f"{rollback(_node(config), _queue(config), route)} is in use")


@app.command(epilog=example("node withdraw -c node.yaml --route chest"))
def withdraw(
    config: NodeFile,
    route: Annotated[
        str, typer.Option(help="Route that node.yaml no longer names; default: the time before it had routes.")
    ] = "",
) -> None:
    """Predict again the studies answered by a route that no longer exists; the new results say what they replace."""
    node, queue = _node(config), _queue(config)
    if route in node.rules_by_route:
        raise UsageError(f"node.yaml has the route {route!r}", expected="one that was taken out of it")
    in_use = queue.bundles_in_use(node.rules_by_route)
    removed = queue.removed_route_answers({name: in_use.get(name, "") for name in node.rules_by_route})
    gone = [one for one in removed if one.route == route and one.heir is None]
    asked, without_images = queue.withdraw_answers(gone, time.time())
    say(f"{asked} studies will be predicted again")
    if without_images:
        say(f"{without_images} more no longer have images here; after node fetch, these are predicted again, too")


@app.command(epilog=example("node fetch -c node.yaml --dates 20260101-20260131 --modality CT"))
def fetch(
    config: NodeFile,
    study: Annotated[str, typer.Option(help="StudyInstanceUID.")] = "",
    accession: Annotated[str, typer.Option(help="Accession number.")] = "",
    dates: Annotated[str, typer.Option(help="Study date (20260131) or range (20260101-20260131).")] = "",
    modality: Annotated[str, typer.Option(help="CT, MR or PT: only studies with such a series.")] = "",
    most: Annotated[
        int, typer.Option(min=1, help="Maximum number of studies to fetch, without those that are here.")
    ] = 100,
) -> None:
    """Fetch studies from the PACS to the node; with C-MOVE, the node must be running."""
    require_extra()
    from med_transfer.hospital.fetching import fetch_studies, study_query
    from med_transfer.hospital.queue import Queue

    query, node = study_query(study, accession, dates, modality), _private_node(config)
    whole, rest = fetch_studies(node, Queue(node.queue_file, node.retries), query, most, say)
    raise typer.Exit(0 if not rest else 1 if whole else 3)


@app.command(epilog=example("node backup -c node.yaml -o BACKUP"))
def backup(config: NodeFile, out: Annotated[Path, typer.Option("--out", "-o", help="New or empty folder.")]) -> None:
    """Back up queue, record, images, results and bundles, even while the node runs. Contains patient names."""
    from med_transfer.hospital.backup import SUMS, back_up

    made = back_up(_private_node(config), out)
    _audit_trail(config).tell_here("backed up", detail=f"{made.files} files")
    say(f"{made.files:,} files, {made.bytes / 1e6:,.1f} MB, in {out}; {SUMS} has the hash of each")


@app.command(epilog=example("node restore BACKUP -c node.yaml"))
def restore(backup: Annotated[Path, typer.Argument(help="Folder written by node backup.")], config: NodeFile) -> None:
    """Restore a backup to the node's folder in node.yaml, which must still be empty."""
    from med_transfer.hospital.backup import restore as restored

    node = _private_node(config)
    put = restored(node, backup)
    _audit_trail(config).tell_here("restored", detail=f"{put.files} files")
    say(f"{put.files:,} files, {put.bytes / 1e6:,.1f} MB, in {node.folder}: med-transfer serve -c {config} goes on")


@app.command("process", epilog=example("node process runs/first IN OUT"))
def process_folder(
    bundle: Bundle,
    images: Annotated[
        Path | None, typer.Argument(help="Folder of DICOM files; default: from the environment of mercure or a MAP.")
    ] = None,
    out: Annotated[
        Path | None, typer.Argument(help="Output folder for the DICOM SR, the page and result.json.")
    ] = None,
    device: Device = "auto",
    key: SignedWith = None,
) -> None:
    """Process one folder and write results as DICOM: a module for mercure, or a MONAI application package."""
    require_extra()
    from med_transfer.hospital.analysis import require_usable
    from med_transfer.hospital.folders import folders, process
    from med_transfer.inference import load_bundle

    named = (images, out) if images and out else None
    given, wanted = named or folders(os.environ)
    predictor = load_bundle(bundle, device, key)
    require_usable(predictor, bundle)
    analyses = process(predictor, given, wanted)
    n_ok = sum(analysis.prediction.status == "ok" for analysis in analyses)
    say(f"{n_ok} of {len(analyses)} series predicted: {wanted / 'result.json'}")
    some = 1 if named else 0  # an orchestrator throws away the results of a module that exits with another code than 0
    raise typer.Exit(0 if n_ok == len(analyses) else some if n_ok else 3)
