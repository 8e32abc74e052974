"""Options that several commands share."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from med_transfer.cli.terminal import say
from med_transfer.errors import UsageError

if TYPE_CHECKING:
    from med_transfer.atomic.sole_writer import Job
    from med_transfer.cohorts import Cohort
    from med_transfer.finetuning import FinetuneConfig
    from med_transfer.inference import ScanWithRegion
    from med_transfer.progress import Progress
    from med_transfer.runtimes.cluster import Cluster

Settings = TypeVar("Settings", bound="FinetuneConfig")

Bundle = Annotated[Path, typer.Argument(help="Bundle, or run folder that contains one.")]
CohortTable = Annotated[Path, typer.Argument(help="cohort.csv: one row per scan, with its patient and label.")]
ScansToPredict = Annotated[
    Path, typer.Argument(help="A scan, a folder tree, or a cohort.csv (with regions of interest; labels not needed).")
]
Device = Annotated[str, typer.Option(help="Device to compute on: auto, cpu or cuda.")]
MaxGapMm = Annotated[
    float,
    typer.Option(min=0.0, help="Interpolate unevenly spaced slices if no gap is wider than this; 0 rejects them."),
]
Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML config file; see configs/.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting of the config, for example --set training.epochs=20; repeatable.",
        show_default=False,
    ),
]
Subgroups = Annotated[
    str | None,
    typer.Option(
        help="Columns of the subgroups, for example age,sex; default: all suitable columns.", show_default=False
    ),
]
ReportLanguage = Annotated[Literal["en", "zh-TW"], typer.Option("--language", help="Language of the report or page.")]
Prevalence = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CLASS=SHARE",
        help="Also report PPV and NPV at this prevalence of the class, for example malignant=0.1; repeatable.",
        show_default=False,
    ),
]
IntervalOfRates = Annotated[
    Literal["wilson", "clopper-pearson", "jeffreys"] | None,
    typer.Option("--interval", help="Confidence interval of the rates; default: wilson.", show_default=False),
]
Mask = Annotated[
    Path | None,
    typer.Option(help="For a single scan: mask of the finding, as the region of interest.", show_default=False),
]
Roi = Annotated[
    str | None,
    typer.Option(
        help="For a single scan: region of interest as x,y,z,size in mm, DICOM patient coordinates (LPS).",
        metavar="x,y,z,size",
        show_default=False,
    ),
]
SignedWith = Annotated[
    Path | None,
    typer.Option("--key", help="Public key: refuse a bundle that is not signed with it.", show_default=False),
]
Engine = Annotated[
    Literal["local", "ray"], typer.Option(help="ray: run on the machines of a Ray cluster, which share a folder.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Address of the head of the Ray cluster; default: the cluster of this machine.",
        show_default=False,
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        help="Time budget in minutes for the whole run on this machine; what is left out is reported.",
        show_default=False,
    ),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        help="Train only a linear head on frozen features, and no network from scratch, for a quick first report.",
    ),
]
UsePlan = Annotated[
    bool,
    typer.Option(
        "--plan/--no-plan",
        help="Without --config: plan a config from the scans (--plan) or use the defaults (--no-plan).",
    ),
]
Also = Annotated[
    list[str] | None,
    typer.Option(metavar="FORMAT", help="Also write the table as parquet or xlsx; repeatable.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def example(words: str) -> str:
    """What stands at the end of a command's help."""
    return f"Example: med-transfer {words}"


def finetune_command(cohort: Path, *options: Path | str) -> str:
    """As it is typed, whatever the files are called."""
    return shlex.join(["med-transfer", "finetune", *map(_as_typed, (cohort, *options))])


def _as_typed(word: Path | str) -> str:
    """The word; a path that begins with a dash, which would be an option, with the ``./`` that ``Path`` drops."""
    return f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)


def column_names(text: str | None) -> tuple[str, ...] | None:
    """``age, sex`` as names; None where nothing was said."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def cohort_and_settings(
    kind: type[Settings],
    table: Path,
    config: Path | None,
    overrides: Sequence[str],
    *,
    out: Path,
    job: Job,
    plan: bool,
    as_json: bool,
    progress: Progress,
) -> tuple[Cohort, Settings]:
    """The table and its config: given, or planned as ``finetune`` does and kept in ``out``; said before it is used."""
    from med_transfer.api.planned import config_for, keep_plan
    from med_transfer.cohorts import Cohort

    cohort = Cohort.read(table)
    settings, planned = config_for(
        kind, cohort, config, overrides, out=out, plan=plan, pretrains=False, progress=progress
    )
    if planned:
        keep_plan(out, planned.as_yaml(), job)
    if not as_json:
        for sentence in planned.sentences if planned else ():
            say(sentence)
        say_looks_at(settings, cohort)
    return cohort, settings


def say_looks_at(settings: FinetuneConfig, cohort: Cohort) -> None:
    """Where the network will look and whom it is measured on."""
    from med_transfer.finetuning.region_choice import region_sentence
    from med_transfer.finetuning.split_choice import split_sentence

    say(region_sentence(settings, cohort))
    say(split_sentence(settings, cohort))


def with_region(scans: Path, mask: Path | None, roi: str | None) -> Path | ScanWithRegion:
    """The scans, or the only one with where to look in it. Raises UsageError for what is no region."""
    from med_transfer.inference import ScanWithRegion

    if mask is not None and roi is not None:
        raise UsageError("both --mask and --roi", expected="one of them")
    if roi is None:
        return scans if mask is None else ScanWithRegion(scans, mask=mask)
    try:
        x, y, z, size = map(float, roi.split(","))
        return ScanWithRegion(scans, roi_mm=(x, y, z, size))
    except (ValueError, UsageError):
        expected = "x,y,z,size in mm, for example -62.5,110,-480,30"
        raise UsageError(repr(roi), where="--roi", expected=expected) from None


def refuse_together(option: str, others: Mapping[str, bool]) -> None:
    """Raises UsageError where one of the ``others``, which would do nothing beside ``option``, was given."""
    if given := [name for name, is_given in others.items() if is_given]:
        raise UsageError(f"{option} with {', '.join(given)}", expected=f"{option} without")


def refuse_without(option: str, others: Mapping[str, bool]) -> None:
    """Raises UsageError where one of the ``others``, which do nothing without ``option``, was given."""
    if given := [name for name, is_given in others.items() if is_given]:
        raise UsageError(f"given without {option}", where=", ".join(given), expected="both, or none")


@contextmanager
def machines_of(engine: str, address: str | None) -> Iterator[Cluster | None]:
    """The cluster of ``--engine ray``, connected; None for this machine. Raises UsageError, MissingExtra."""
    if engine == "local":
        refuse_without("--engine ray", {"--ray-address": address is not None})
        yield None
        return
    from med_transfer.runtimes.cluster import AUTO, cluster

    with cluster(AUTO if address is None else address) as machines:
        yield machines
