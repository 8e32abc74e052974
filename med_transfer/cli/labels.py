"""``med-transfer labels``: how many more labelled patients are needed, and which scans to label next."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from med_transfer.cli.options import (
    AsJson,
    Bundle,
    CohortTable,
    Config,
    Device,
    Overrides,
    SignedWith,
    UsePlan,
    cohort_and_settings,
    example,
)
from med_transfer.cli.terminal import progress_bars, say, say_json
from med_transfer.errors.numbers import counted

if TYPE_CHECKING:
    from med_transfer.labelling import Budget

NAME = "labels"
log = logging.getLogger(__name__)
app = typer.Typer(
    help="Estimate how many more labelled patients are needed, and choose which scans to label next.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(epilog=example("labels budget cohort.csv --target 0.85 -o label-budget"))
def budget(
    cohort: CohortTable,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Output folder; give the same folder again to resume.")
    ] = Path("label-budget"),
    backbone: Annotated[
        str | None, typer.Option(help="Name of the backbone; default: that of the config.", show_default=False)
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights file, bundle or run folder.", show_default=False)
    ] = None,
    target: Annotated[float, typer.Option(help="Target performance.")] = 0.85,
    measure: Annotated[
        str, typer.Option(help="Target measure: sensitivity (of each class) or macro_auc.")
    ] = "sensitivity",
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME", help="Consider only this class; repeatable.", show_default=False),
    ] = None,
    finetune: Annotated[
        bool, typer.Option("--finetune", help="Measure by fine-tuning (slow) instead of linear probes.")
    ] = False,
    smallest: Annotated[
        int | None,
        typer.Option(help="Patients in the smallest subset; default: 5, or two per class.", show_default=False),
    ] = None,
    sizes: Annotated[int, typer.Option(help="Number of subset sizes; a forecast needs at least 4.")] = 6,
    repeats: Annotated[
        int | None,
        typer.Option(help="Repeats of each size; default: 10 with probes, 1 with fine-tuning.", show_default=False),
    ] = None,
    multiple: Annotated[
        float, typer.Option(help="Extrapolate up to this multiple of the present number of patients.")
    ] = 5.0,
    config: Config = None,
    overrides: Overrides = None,
    plan: UsePlan = True,
    as_json: AsJson = False,
) -> None:
    """Estimate from the training folds of a cohort how many more labelled patients a target needs.

    Without --config, a config is planned from the scans and printed first, as by 'med-transfer plan'.
    """
    from med_transfer.bundle import bundle_folder
    from med_transfer.cohorts.kept_scans import keeping_scans
    from med_transfer.finetuning import FinetuneConfig
    from med_transfer.labelling import BudgetSettings, label_budget
    from med_transfer.labelling.report import as_record

    asked = BudgetSettings(
        target=target,
        measure=measure,  # type: ignore[arg-type]
        classes=tuple(classes or ()),
        finetune=finetune,
        smallest=smallest,
        n_sizes=sizes,
        repeats=repeats,
        multiple=multiple,
    )
    chosen = {"name": backbone, "weights": weights and bundle_folder(weights)}
    words = [
        f"backbone.{key}={json.dumps(str(value), ensure_ascii=False)}"
        for key, value in chosen.items()
        if value is not None
    ]
    words = [*(overrides or ()), *words]
    with progress_bars() as progress, keeping_scans():
        table, settings = cohort_and_settings(
            FinetuneConfig,
            cohort,
            config,
            words,
            out=out,
            job="a label budget",
            plan=plan,
            as_json=as_json,
            progress=progress,
        )
        measured = label_budget(table, settings, out, asked, progress)
    if as_json:
        say_json(as_record(measured))
    else:
        _say_budget(measured)
    raise typer.Exit(1 if measured.failed else 0)


def _say_budget(measured: Budget) -> None:
    from med_transfer.labelling.record import WAY_MEANS
    from med_transfer.labelling.report import limits, sentence

    asked = measured.settings
    for forecast in measured.forecasts:
        say(sentence(forecast, asked.measure))
    say()
    say(
        f"{counted(measured.n_patients, 'patient')} in {counted(measured.n_folds, 'training fold')}, "
        f"{counted(measured.repeats, 'repeat')}; {measured.backbone}"
    )
    say(WAY_MEANS[asked.way])
    say(limits(measured))
    if measured.failed:
        say(f"{counted(len(measured.failed), 'scan')} could not be used")
    say(f"curves: {measured.folder / 'budget.png'}")
    say(f"figures: {measured.folder / 'budget.json'}")


@app.command("next", epilog=example("labels next runs/first UNLABELLED -n 20 -o next.csv"))
def next_(
    bundle: Bundle,
    scans: Annotated[Path, typer.Argument(help="Folder tree or table of unlabelled scans.")],
    n: Annotated[int, typer.Option("-n", help="Number of scans to choose.")] = 20,
    out: Annotated[Path, typer.Option("--out", "-o", help="Table to write.")] = Path("next.csv"),
    out_of_distribution_above: Annotated[
        float | None,
        typer.Option(
            help="Novelty above which a scan is listed separately; default: the bundle's, or 0.99.", show_default=False
        ),
    ] = None,
    strange_above: Annotated[float | None, typer.Option(hidden=True)] = None,
    seed: Annotated[int, typer.Option(help="Random seed; another seed gives another choice.")] = 0,
    device: Device = "auto",
    key: SignedWith = None,
    as_json: AsJson = False,
) -> None:
    """Choose which scans to label next: uncertain to the bundle, unlike each other, one per patient."""
    from med_transfer.inference import load_bundle
    from med_transfer.labelling import next_labels

    if strange_above is not None:
        log.warning("option --strange-above is now --out-of-distribution-above")
        if out_of_distribution_above is None:
            out_of_distribution_above = strange_above
    with progress_bars() as progress:
        chosen = next_labels(
            load_bundle(bundle, device, key),
            scans,
            out,
            n,
            out_of_distribution_above=out_of_distribution_above,
            seed=seed,
            progress=progress,
        )
    if as_json:
        say_json(asdict(chosen))
    else:
        say(f"{counted(chosen.n_chosen, 'scan')} to label, most useful first: {chosen.table}")
        if chosen.n_chosen < n:
            say("fewer than requested: there are no more patients, or the remaining scans repeat these or are certain")
        if chosen.n_out_of_distribution:
            beyond = f"{chosen.n_out_of_distribution} scans are out-of-distribution, perhaps out of scope"
            say(f"{beyond}: {chosen.out_of_distribution}")
        trained, held_out = counted(chosen.n_trained_on, "scan"), counted(chosen.n_held_out, "scan")
        if chosen.n_trained_on:
            say(f"{trained} left out: the bundle was trained on them, or on their patients")
        if chosen.n_held_out:
            say(f"{held_out} left out: they, or their patients, are the test set of the bundle's run")
        if chosen.failed:
            say(f"{counted(len(chosen.failed), 'scan')} could not be used: {chosen.left_out}")
    raise typer.Exit(1 if chosen.failed else 0)
