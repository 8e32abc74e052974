"""The config of a run, which is given, resumed or planned, and an estimate of the run's duration."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from med_transfer.atomic import output_error, write_text
from med_transfer.atomic.sole_writer import Job, require_same_job
from med_transfer.backbones import LoadedBackbone
from med_transfer.cohorts import Cohort, split_cohort
from med_transfer.cohorts.overwriting import back_up
from med_transfer.config import MISSING, given_config, given_values, load_config, parse, refuse_mistyped, value_at
from med_transfer.errors import ConfigError
from med_transfer.errors.given_numbers import number_from
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.data_setup import LOCK_FILE, resolve_preprocessing
from med_transfer.finetuning.duration import Duration, estimate, fit_to_time_limit, measure_cost, prepare_seconds
from med_transfer.finetuning.memory import require_memory
from med_transfer.finetuning.region_choice import region_sentence
from med_transfer.finetuning.run import load_source
from med_transfer.finetuning.split_choice import choose_by_table, split_sentence
from med_transfer.planning import (
    Choice,
    CohortFingerprint,
    GivenSettings,
    Plan,
    PlannedFor,
    fingerprint_cohort,
    plan_cohort,
)
from med_transfer.progress import Progress, silent

QUICK = (
    *("transfer.strategy=linear_probe", "backbone.pretrain=null"),
    *("from_scratch_baseline=false", "explain.gallery=2"),
)
PLAN_FILE = "plan.yaml"
_PRETRAIN = "backbone.pretrain"
A_FEW = 4  # scans read to measure reading speed and to check that they match the cohort that was planned for

Config = TypeVar("Config", bound=FinetuneConfig)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedConfig:
    """A config to train with, and how long it takes on this machine.

    Attributes:
        plan: every choice with its reason, including the user's settings and what was given up to save time. None if
            the config was given.
        config: the config to train with.
        given_up: settings changed to stay within the time limit.
        duration: estimated duration of the run on this machine.
        looks_at: sentences on the region that the network sees and on the scans that the run is evaluated on.
    """

    plan: Plan | None
    config: FinetuneConfig
    given_up: tuple[Choice, ...]
    duration: Duration
    looks_at: tuple[str, ...]

    @property
    def sentences(self) -> list[str]:
        """The plan, the region, the evaluation and the duration as sentences for the user."""
        sentences = self.plan.sentences if self.plan else [choice.sentence for choice in self.given_up]
        return [*sentences, *self.looks_at, f"this will take {self.duration.sentence}"]

    @property
    def record(self) -> dict[str, Any]:
        """The plan as JSON values: facts, choices and the duration in seconds."""
        facts, choices = (self.plan.facts, self.plan.choices) if self.plan else ([], self.given_up)
        return {
            "facts": facts,
            "choices": [vars(choice) for choice in choices],
            "seconds": round(self.duration.seconds),
        }

    def as_yaml(self, command: str) -> str:
        """Return the plan as YAML, with the reasons and the duration as comments; empty if the config was given."""
        return self.plan.as_yaml([command, f"takes {self.duration.sentence}"]) if self.plan else ""


def planned_config(
    cohort: Cohort,
    overrides: Sequence[str] = (),
    *,
    minutes: float | None = None,
    quick: bool = False,
    progress: Progress = silent,
) -> PlannedConfig:
    """Inspect a cohort, choose a config, and estimate how long the run takes on this machine.

    Args:
        cohort: the table.
        overrides: ``"section.key=value"`` settings, applied on top of the plan.
        minutes: time limit for the whole run; None for no limit.
        quick: train only a linear head on frozen features, without the from-scratch baseline.
        progress: progress callback.

    Raises:
        CohortError: scans of several modalities or parts of the body, or a cohort that cannot be split.
        ConfigError: settings contradict each other, the input is too large for the machine's memory, or the time limit
            is too short for any run.
        BackboneError: the backbone or its weights cannot be used.
        UsageError: the time limit is no number, or negative.
        NothingDone: no scan can be read.
    """
    _require_duration(minutes)
    config, plan = config_for(FinetuneConfig, cohort, None, with_quick(overrides, quick=quick), progress=progress)
    return timed_config(cohort, config, plan, minutes)


def _require_duration(minutes: object) -> None:
    """Raise UsageError, before scans are read, for anything but None or a number that is not negative."""
    if minutes is not None:
        number_from(minutes, "minutes", 0, "a number, at least 0, or None")


def config_for(
    kind: type[Config],
    cohort: Cohort,
    config: Config | Path | str | None,
    overrides: Sequence[str] = (),
    *,
    out: Path | None = None,
    plan: bool = True,
    pretrains: bool = True,
    progress: Progress = silent,
) -> tuple[Config, Plan | None]:
    """Return the given config, else that of the run started in ``out``, else a planned one together with its plan.

    Args:
        kind: config class: that of ``finetune``, or that of ``tune``, which has one more section.
        cohort: the table.
        config: a config, the path of a YAML file, or None.
        overrides: settings applied on top of the YAML file or the plan.
        out: run folder.
        plan: if False, use the program's defaults instead of a plan when no config is given.
        pretrains: whether a plan may pretrain the network on the cohort; False where many networks are trained, or
            none.
        progress: progress callback.

    Returns:
        The config, and the plan if one was made, else None.

    Raises:
        CohortError, ConfigError, NothingDone: see :func:`planned_config`.
    """
    planned, goes_on = None, bool(out and begun(out))
    if config is None and plan and not goes_on:
        refuse_mistyped(kind, overrides)  # before inspecting the scans, which takes a minute
        planned = plan_cohort(cohort, GivenSettings(given_values(kind, overrides), pretrains, kind.searches), progress)
        given = load_config(kind, None, overrides, base=planned.values)
    else:
        file = begun_plan(out) if config is None and plan and out else config
        given = given_config(kind, file, overrides)
    if given.planned_for and not planned and not goes_on:
        here = PlannedFor.of(fingerprint_cohort(cohort, most_scans=A_FEW, region=given.input.region))
        for difference in given.planned_for.differences(here, cohort.path or ""):
            log.warning("planned for another cohort: %s", difference)
    chosen = choose_by_table(given, cohort, out)
    return chosen, planned.with_settings(set_by_user(chosen, overrides)) if planned else None


def set_by_user(config: FinetuneConfig, overrides: Sequence[str]) -> list[Choice]:
    """The overrides as choices of a plan, with their values in the config and with who set them as reason."""
    quick = QUICK if tuple(overrides[: len(QUICK)]) == QUICK else ()
    typed = {_key(text): (text, "--quick" if n < len(quick) else "set by you") for n, text in enumerate(overrides)}
    return [
        Choice(key, _value_at(config, key, text.partition("=")[2]), reason) for key, (text, reason) in typed.items()
    ]


def begun(out: Path) -> bool:
    """Whether the folder holds a run, which is resumed and not planned again."""
    return (out / LOCK_FILE).exists()


def begun_plan(out: Path) -> Path | None:
    """Return the path of the plan in a run folder; None if the run was not planned."""
    return path if (path := out / PLAN_FILE).exists() else None


def keep_plan(out: Path, text: str, job: Job) -> None:
    """Write a job's plan into its folder; an existing plan with other settings, perhaps edited by hand, is backed up.

    Raises:
        UsageError: the folder holds another job, whose plan would be overwritten.
        OutputError: the plan cannot be read or written.
    """
    path = out / PLAN_FILE
    try:
        require_same_job(out, job)
        there = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise output_error(path, error) from error
    if there and _settings(there) != _settings(text.encode()):
        log.warning("%s: the plan that was there, with other settings; -c takes it", back_up(path, there))
    write_text(path, text)


def _settings(plan: bytes) -> Any:
    """The settings of a plan without its comments; the bytes unchanged if they are not a plan."""
    try:
        return parse(plan.decode(), PLAN_FILE)
    except (ConfigError, UnicodeDecodeError):
        return plan


def with_quick(overrides: Sequence[str], *, quick: bool) -> list[str]:
    """Return the user's overrides, preceded by those of ``--quick`` if ``quick`` is set."""
    return [*(QUICK if quick else ()), *overrides]


def timed_config(
    cohort: Cohort, config: FinetuneConfig, plan: Plan | None = None, minutes: float | None = None
) -> PlannedConfig:
    """Estimate how long a config takes on this machine and, given a time limit, reduce it until it fits.

    Args:
        cohort: the table.
        config: config with region and split already chosen.
        plan: the plan the config comes from; if None, reading speed is measured on a few scans.
        minutes: time limit for the whole run; None for no limit.

    Raises:
        ConfigError: settings contradict each other, the input is too large for the machine's memory, or the time limit
            is too short for any run.
        BackboneError: the backbone or its weights cannot be used.
        CohortError: the cohort cannot be split.
        NothingDone: no scan can be read.
    """
    _require_duration(minutes)
    looked_at = plan.fingerprint if plan else fingerprint_cohort(cohort, most_scans=A_FEW)
    source = load_source(config)
    resolved = config.resolved(from_source=source.sha256 is not None)
    require_memory(resolved, source)
    cost = measure_cost(
        resolved, source, cohort.labels, _read_seconds(cohort, resolved, source, looked_at), len(cohort)
    )
    fitting, losses = fit_to_time_limit(minutes, resolved, cohort, cost) if minutes is not None else (config, [])
    given_up = tuple(Choice(key, value, f"to keep the time: {loss}") for key, value, loss in losses)
    without = [choice for choice in given_up if choice.key == _PRETRAIN]
    if plan and plan.cheaper and without:
        plain = plan.cheaper.with_settings(without)
        other = choose_by_table(load_config(FinetuneConfig, None, base=plain.values), cohort)
        return timed_config(cohort, other, plain, minutes)
    looks_at = () if plan else (region_sentence(fitting, cohort),)
    return PlannedConfig(
        plan.with_settings(given_up) if plan else None,
        fitting,
        given_up,
        estimate(fitting, split_cohort(cohort, fitting.split), cost),
        (*looks_at, split_sentence(fitting, cohort)),
    )


def _read_seconds(
    cohort: Cohort, config: FinetuneConfig, source: LoadedBackbone, looked_at: CohortFingerprint
) -> float:
    """Seconds per case to prepare it, plus the time to read those that the fingerprint did not keep in memory."""
    not_kept = 1 - len(looked_at.scans) / len(cohort)
    return prepare_seconds(cohort, resolve_preprocessing(source.spec, config)) + not_kept * looked_at.read_seconds


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


def _value_at(config: FinetuneConfig, dotted: str, typed: str) -> Any:
    """The value of a setting in the config; the typed value if the config no longer has the key (an old name)."""
    value = value_at(config.model_dump(mode="json"), dotted)
    return parse(typed, dotted) if value is MISSING else value
