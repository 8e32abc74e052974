"""A config that the program chooses by itself: a plan, the user's own settings over it, and the time it will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from med_transfer.cohorts import Cohort, split_cohort
from med_transfer.config import load_config, parse
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.data_setup import LOCK_FILE
from med_transfer.finetuning.duration import Duration, GivenUp, estimate, fit_into, measure_cost
from med_transfer.finetuning.region_choice import choose_region
from med_transfer.finetuning.run import load_source
from med_transfer.finetuning.split_choice import choose_split, split_sentence
from med_transfer.planning import Choice, Plan, fingerprint_cohort, plan_cohort
from med_transfer.progress import Progress, silent

QUICK = ("transfer.strategy=linear_probe", "from_scratch_baseline=false")
PLAN_FILE = "plan.yaml"
_A_FEW = 4  # scans, to measure how fast they are read


@dataclass(frozen=True)
class PlannedConfig:
    """What was planned, and what became of it.

    Attributes:
        plan: every choice with its reason; the user's own settings and what was given up for time are in it.
        config: to train with.
        duration: that the run will take on this machine.
        split_sentence: whom the run is measured on.
    """

    plan: Plan
    config: FinetuneConfig
    duration: Duration
    split_sentence: str

    @property
    def sentences(self) -> list[str]:
        """For a person, before the training."""
        chosen = [f"{choice.key}: {_short(choice.value)} ({choice.reason})" for choice in self.plan.choices]
        return [*self.plan.facts, *chosen, self.split_sentence, f"this will take {self.duration.sentence}"]

    @property
    def record(self) -> dict[str, Any]:
        """For a program."""
        choices = [vars(choice) for choice in self.plan.choices]
        return {"facts": self.plan.facts, "choices": choices, "seconds": round(self.duration.seconds)}

    def as_yaml(self, command: str) -> str:
        """A config file with the reasons and the time."""
        return self.plan.as_yaml([command, f"takes {self.duration.sentence}"])


def planned_config(
    cohort: Cohort,
    overrides: Sequence[str] = (),
    *,
    minutes: float | None = None,
    quick: bool = False,
    progress: Progress = silent,
) -> PlannedConfig:
    """Look at a cohort, choose a config, and measure how long it takes here.

    Args:
        cohort: the table.
        overrides: ``"section.key=value"``, over what is planned.
        minutes: that the whole run may take; None: as long as it needs.
        quick: only a linear head on frozen features, and no baseline.
        progress: told how far it is.

    Raises:
        CohortError: scans of several modalities or parts of the body, or a cohort that cannot be split.
        ConfigError: settings that do not go together, or less time than the least run needs.
        BackboneError: the backbone or its weights cannot be used.
        NothingDone: no scan can be read.
    """
    plan, config = chosen_config(cohort, overrides, quick=quick, progress=progress)
    timed = timed_config(cohort, config, minutes, plan.fingerprint.read_seconds)
    typed = {_key(text): text.partition("=")[2] for text in _words(overrides, quick=quick)}
    settings = [Choice(key, _value_at(config, key, text), "set by you") for key, text in typed.items()]
    settings += [Choice(key, value, f"to keep the time: {loss}") for key, value, loss in timed.given_up]
    said = split_sentence(timed.config, cohort)
    return PlannedConfig(plan.with_settings(settings), timed.config, timed.duration, said)


def chosen_config(
    cohort: Cohort, overrides: Sequence[str] = (), *, quick: bool = False, progress: Progress = silent
) -> tuple[Plan, FinetuneConfig]:
    """What suits a cohort, and that with the user's own settings over it; see :func:`planned_config`."""
    named = [text.partition("=")[2].strip() for text in overrides if _key(text) == "backbone.name"]
    plan = plan_cohort(cohort, named[-1] if named else "", progress)
    words = _words(overrides, quick=quick)
    config = choose_region(load_config(FinetuneConfig, None, words, base=plan.values), cohort)
    return plan, choose_split(config, cohort)


def begun(out: Path) -> bool:
    """Whether there is a run in the folder, which goes on as it was begun and is not planned anew."""
    return (out / LOCK_FILE).exists()


def begun_plan(out: Path) -> Path | None:
    """What the run in a folder was planned to be; None where it was not planned."""
    return path if (path := out / PLAN_FILE).exists() else None


def _words(overrides: Sequence[str], *, quick: bool) -> list[str]:
    return [*(QUICK if quick else ()), *overrides]


@dataclass(frozen=True)
class TimedConfig:
    """A config, what had to go so that the time is kept, and the time that it takes on this machine."""

    config: FinetuneConfig
    given_up: tuple[GivenUp, ...]
    duration: Duration

    @property
    def sentences(self) -> list[str]:
        """For a person, before the training."""
        given_up = [f"{key}: {_short(value)} (to keep the time: {loss})" for key, value, loss in self.given_up]
        return [*given_up, f"this will take {self.duration.sentence}"]


def timed_config(
    cohort: Cohort, config: FinetuneConfig, minutes: float | None = None, read_seconds: float | None = None
) -> TimedConfig:
    """How long a config takes on this machine, and the nearest one that takes no more than so many minutes.

    Args:
        cohort: the table.
        config: with its region chosen.
        minutes: that the whole run may take; None: as long as it needs.
        read_seconds: to read one scan; None: measured on a few.

    Raises:
        ConfigError: settings that do not go together, or less time than the least run needs.
        BackboneError: the backbone or its weights cannot be used.
        CohortError: the cohort cannot be split.
        NothingDone: no scan can be read.
    """
    if read_seconds is None:
        read_seconds = fingerprint_cohort(cohort, most_scans=_A_FEW).read_seconds
    source = load_source(config)
    resolved = config.resolved(from_source=source.sha256 is not None)
    cost = measure_cost(resolved, source, cohort.labels, read_seconds)
    fitting, given_up = fit_into(minutes, config, cohort, cost) if minutes is not None else (config, [])
    return TimedConfig(fitting, tuple(given_up), estimate(fitting, split_cohort(cohort, fitting.split), cost))


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


def _value_at(config: FinetuneConfig, dotted: str, typed: str) -> Any:
    """What became of a setting; of one under an old name, which the config has no longer, what was typed."""
    value: Any = config.model_dump(mode="json")
    for part in dotted.split("."):
        if not isinstance(value, dict) or part not in value:
            return parse(typed, dotted)
        value = value[part]
    return value


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
