"""A plan: the choices of all rules, as a config file in which every line says why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from med_transfer.cohorts import Cohort
from med_transfer.cohorts.splits import require_separable
from med_transfer.config import as_typed, set_value
from med_transfer.errors import printable
from med_transfer.errors.numbers import counted
from med_transfer.planning.fingerprint import CohortFingerprint, fingerprint_cohort, require_alike
from med_transfer.planning.given_settings import NOTHING, GivenSettings
from med_transfer.planning.planned_for import PlannedFor
from med_transfer.planning.rules import RULES, Choice, pretraining
from med_transfer.progress import Progress, silent

_WIDTH = 100


@dataclass(frozen=True)
class Plan:
    """What a cohort looks like and the settings that suit it.

    Attributes:
        cheaper: the same without pretraining, for whoever has less time; None where nothing is pretrained.
    """

    fingerprint: CohortFingerprint
    choices: tuple[Choice, ...]
    cheaper: Plan | None = None

    @classmethod
    def of(cls, fingerprint: CohortFingerprint, given: GivenSettings = NOTHING) -> Plan:
        """Every rule asked in turn about what the user has not set; that of pretraining over all the others."""
        plan = cls(fingerprint, ())
        for rule in RULES[:-1]:
            plan = plan.with_settings(_left_open(rule(fingerprint, given), given))
        over = _left_open(pretraining(fingerprint, given), given)
        return replace(plan.with_settings(over), cheaper=plan) if over else plan

    @property
    def values(self) -> dict[str, Any]:
        """The settings as a config's sections, with what they were chosen for."""
        values: dict[str, Any] = {}
        for choice in self.choices:
            set_value(values, choice.key, choice.value)
        return values | {"planned_for": PlannedFor.of(self.fingerprint).model_dump(mode="json")}

    @property
    def facts(self) -> list[str]:
        """What was seen, a sentence each."""
        cohort = self.fingerprint
        classes = ", ".join(f"{name} {n}" for name, n in cohort.patients_of_class.items())
        spacing = " x ".join(f"{mm:.2g}" for mm in cohort.spacing_mm)
        facts = [
            f"{counted(cohort.n_scans, 'scan')} of {counted(cohort.n_patients, 'patient')}; {classes}",
            f"looked at {len(cohort.scans)}: {cohort.modality or 'no modality stated'}, {cohort.plane} slices, "
            f"{spacing} mm along slice, row and column (median)",
        ]
        if cohort.n_with_region:
            rows = counted(cohort.n_with_region, "row")
            facts.append(f"{rows} with a region or mask, half at most {cohort.given_mm(50):.0f} mm")
        else:
            body = " x ".join(f"{mm:.0f}" for mm in cohort.box_mm("body"))
            facts.append(f"body region: {cohort.body_region}; body {body} mm (up, back, left; median)")
        failed = [f"{n} could not be read: {reason}" for reason, n in cohort.failed.items()]
        return [*facts, *failed]

    @property
    def sentences(self) -> list[str]:
        """What was seen and what is chosen for it, for a person."""
        return [*self.facts, *(choice.sentence for choice in self.choices)]

    def with_settings(self, settings: Sequence[Choice]) -> Plan:
        """The same with other settings over it."""
        keys = [setting.key for setting in settings]
        kept = [c for c in self.choices if not any(c.key == key or c.key.startswith(f"{key}.") for key in keys)]
        cheaper = self.cheaper.with_settings(settings) if self.cheaper else None
        return Plan(self.fingerprint, (*kept, *settings), cheaper)

    def as_yaml(self, header: Sequence[str] = ()) -> str:
        """A config file; a comment gives each choice's reason."""
        lines = [f"# {printable(' '.join(line.splitlines()))}" for line in (*header, *self.facts)]
        reasons = {choice.key: choice.reason for choice in self.choices}
        return "\n".join([*lines, *_section(self.values, "", reasons)]) + "\n"


def _left_open(choices: Sequence[Choice], given: GivenSettings) -> list[Choice]:
    return [choice for choice in choices if not given.has(choice.key)]


def plan_cohort(cohort: Cohort, given: GivenSettings = NOTHING, progress: Progress = silent) -> Plan:
    """Look at a cohort's scans and choose.

    Args:
        cohort: the table.
        given: what the user has set and is not to be chosen.
        progress: told how far it is.

    Raises:
        CohortError: the scans are of several modalities, or without regions of several parts of the body; a class has
            one patient.
        NothingDone: no scan can be read.
    """
    require_separable(cohort)
    fingerprint = fingerprint_cohort(cohort, progress, region=given.region)
    require_alike(fingerprint, cohort.path or "")
    return Plan.of(fingerprint, given)


def _section(values: Mapping[str, Any], prefix: str, reasons: Mapping[str, str]) -> list[str]:
    lines, indent = [], "  " * prefix.count(".")
    for name, value in values.items():
        key = f"{prefix}{name}"
        if key in reasons or not isinstance(value, Mapping) or prefix == "planned_for.":
            line = f"{indent}{name}: {as_typed(value)}"
            comment = f"  # {reasons[key]}" if key in reasons else ""
            short = len(line) + len(comment) <= _WIDTH
            lines += [f"{line}{comment}"] if short or not comment else [f"{indent}{comment.strip()}", line]
        else:
            lines += [f"{indent}{name}:", *_section(value, f"{key}.", reasons)]
    return lines
