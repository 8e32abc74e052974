"""Which series of a study to use: rules in the field's words, and for every series, chosen or not, the reason.

A PACS study holds the same patient several times: thin and thick, soft and sharp kernel, before and after contrast,
reformatted. :func:`choose` picks one series a study and says why; it reads nothing but headers and changes nothing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from med_transfer.scans.search.description import states_contrast
from med_transfer.scans.search.identity import identity
from med_transfer.scans.series import Series

_KEYWORDS = {  # conditions that look for a pattern, and the DICOM attribute in which they do
    "kernel": "ConvolutionKernel",
    "body_part": "BodyPartExamined",
    "image_type": "ImageType",
    "manufacturer": "Manufacturer",
}
Value = str | float | bool | None


# The rules ----------------------------------------------------------------------------------------------------


def _regular_expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"a regular expression ({error})") from None
    return text


def _limits(limits: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    low, high = limits
    if low is None and high is None:
        raise ValueError("[least, most], at least one of them a number")
    if low is not None and high is not None and low > high:
        raise ValueError("[least, most], the smaller number first")
    return limits


Pattern = Annotated[str, Field(min_length=1), AfterValidator(_regular_expression)]
Limit = Annotated[float, Field(ge=0)] | None
Limits = Annotated[tuple[Limit, Limit], AfterValidator(_limits)]


class Rule(BaseModel):
    """Conditions that must all hold. What a file does not state fulfils none: a NIfTI file has no kernel.

    Patterns are regular expressions, found anywhere in the text and whatever the case: ``b[67]0`` finds ``B70f``.
    Limits are [least, most], both included; ``null`` leaves one side open.

    Attributes:
        modality: CT | MR | PT.
        kernel: pattern in ConvolutionKernel (0018,1210).
        slice_thickness_mm: SliceThickness (0018,0050), as the scanner states it.
        slice_spacing_mm: between neighbouring slices, from their positions.
        contrast: whether ContrastBolusAgent (0018,0010) names one.
        plane: axial | coronal | sagittal | oblique, from the positions.
        n_slices: number of slices.
        body_part: pattern in BodyPartExamined (0018,0015).
        description: pattern in SeriesDescription (0008,103E); it is read, and never written anywhere.
        image_type: pattern in ImageType (0008,0008), its values joined by backslashes: ``ORIGINAL\\PRIMARY\\AXIAL``.
        manufacturer: pattern in Manufacturer (0008,0070).
        format: dicom | nifti | nrrd | metaimage.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    modality: Literal["CT", "MR", "PT"] | None = None
    kernel: Pattern | None = None
    slice_thickness_mm: Limits | None = None
    slice_spacing_mm: Limits | None = None
    contrast: bool | None = None
    plane: Literal["axial", "coronal", "sagittal", "oblique"] | None = None
    n_slices: Limits | None = None
    body_part: Pattern | None = None
    description: Pattern | None = None
    image_type: Pattern | None = None
    manufacturer: Pattern | None = None
    format: Literal["dicom", "nifti", "nrrd", "metaimage"] | None = None

    @model_validator(mode="after")
    def _has_a_condition(self) -> Rule:
        if not self.conditions:
            raise ValueError("a rule without a condition")
        return self

    @property
    def conditions(self) -> dict[str, Value | tuple]:
        """What is asked for, by name."""
        return {name: wanted for name in type(self).model_fields if (wanted := getattr(self, name)) is not None}

    def unmet(self, series: Series) -> str:
        """The first condition that a series does not fulfil; empty when it fulfils all."""
        return next((name for name, wanted in self.conditions.items() if not _holds(series, name, wanted)), "")


class SeriesRules(BaseModel):
    """Which series of a study is used, step by step.

    Attributes:
        require: a series must fulfil every rule.
        exclude: a series must fulfil none.
        prefer: of those left, the first rule that only some of them fulfil decides, then the next among these.

    What then is still equal is decided by more slices, by thinner ones, by name: always the same way.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    require: tuple[Rule, ...] = ()
    prefer: tuple[Rule, ...] = ()
    exclude: tuple[Rule, ...] = ()


# The choice ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """``reason`` is a sentence for a person; it never holds a SeriesDescription."""

    series: Series
    chosen: bool
    reason: str


def choose(series: Sequence[Series], rules: SeriesRules | None = None) -> list[Choice]:
    """For every series, in the given order, whether it is used and why.

    With rules, at most one usable series of each study; without, every usable one. A series that names no study (every
    NIfTI file) stands alone. Order does not matter.

    Raises:
        UnreadableScan: a rule asks for the description and the file cannot be read any more.
    """
    studies: dict[Hashable, list[Series]] = defaultdict(list)
    for number, candidate in enumerate(series):
        studies[_study(candidate, number)].append(candidate)
    choices = [choice for candidates in studies.values() for choice in _study_choices(candidates, rules)]
    by_series = {id(choice.series): choice for choice in choices}
    return [by_series[id(candidate)] for candidate in series]


def _study(series: Series, number: int) -> Hashable:
    """Study and patient: sloppy anonymisation gives several patients one StudyInstanceUID."""
    return (series.study_uid, series.slices[0].patient_mark if series.slices else "") if series.study_uid else number


def _study_choices(candidates: Sequence[Series], rules: SeriesRules | None) -> list[Choice]:
    usable = [series for series in candidates if series.verdict.usable]
    choices = [
        Choice(series, False, "not usable: see its verdict") for series in candidates if not series.verdict.usable
    ]
    if rules is None:
        return choices + [Choice(series, True, _without_rules(series, len(usable))) for series in usable]
    refusals = [(series, _refusal(series, rules)) for series in usable]
    choices += [Choice(series, False, f"not chosen: {refusal}") for series, refusal in refusals if refusal]
    admitted = [series for series, refusal in refusals if not refusal]
    return choices + _ranked(admitted, rules, len(usable))


def _without_rules(series: Series, usable: int) -> str:
    if not series.study_uid:
        return "names no study: stands alone"
    if usable == 1:
        return "only usable series of its study"
    return f"one of {usable} usable series of its study; no rules given"


def _refusal(series: Series, rules: SeriesRules) -> str:
    for number, rule in enumerate(rules.require, start=1):
        if unmet := rule.unmet(series):
            return f"requirement {number} not met, {_condition_in_words(series, unmet, rule)}"
    for number, rule in enumerate(rules.exclude, start=1):
        if not rule.unmet(series):
            met = ", ".join(_condition_in_words(series, name, rule) for name in rule.conditions)
            return f"excluded by rule {number}, {met}"
    return ""


def _ranked(candidates: Sequence[Series], rules: SeriesRules, usable: int) -> list[Choice]:
    if not candidates:
        return []
    best, *runners_up = sorted(candidates, key=lambda series: _rank(series, rules))
    if not runners_up:
        return [Choice(best, True, f"chosen: {_alone(best, usable)}")]
    over, under = _difference(best, runners_up[0], rules)
    chosen = Choice(best, True, f"chosen: prefers {over} over {under} of {_told_apart(runners_up[0], best)}")
    return [chosen, *(_passed_over(series, best, rules) for series in runners_up)]


def _alone(series: Series, usable: int) -> str:
    if not series.study_uid:
        return "meets the rules; names no study"
    return "only usable series of its study" if usable == 1 else f"the only one of {usable} usable that the rules admit"


def _passed_over(series: Series, best: Series, rules: SeriesRules) -> Choice:
    over, under = _difference(best, series, rules)
    return Choice(series, False, f"not chosen: prefers {over} of {_told_apart(best, series)} over {under}")


def _rank(series: Series, rules: SeriesRules) -> tuple:
    fulfilled = tuple(bool(rule.unmet(series)) for rule in rules.prefer)  # False sorts first
    spacing = _slice_spacing_mm(series)
    thin = float("inf") if spacing is None else spacing
    return fulfilled, -series.n_slices, thin, series.name, str(series.path), series.files


def _difference(better: Series, worse: Series, rules: SeriesRules) -> tuple[str, str]:
    """What the better one has and what the worse one has instead, at the first point where their ranks differ."""
    for rule in rules.prefer:
        unmet = rule.unmet(worse)
        if unmet and not rule.unmet(better):
            return _condition_in_words(better, unmet, rule), _condition_in_words(worse, unmet, rule)
    for name in ("n_slices", "slice_spacing_mm"):
        first, second = _value_in_words(better, name), _value_in_words(worse, name)
        if first != second:
            return first, second
    return "the first by name", "the equal images"


# What a series says of itself ---------------------------------------------------------------------------------


def _value(series: Series, name: str) -> Value:
    """What a condition looks at; None where the files do not state it."""
    match name:
        case "modality" | "format" | "plane":
            return getattr(series, name) or None
        case "n_slices":
            return series.n_slices
        case "slice_spacing_mm":
            return _slice_spacing_mm(series)
        case "slice_thickness_mm":
            return _number(series.acquisition.get("SliceThickness", ""))
        case "contrast":
            return states_contrast(series.acquisition) if series.format == "dicom" else None
        case "description":
            return identity(series).description or None
        case _:
            return series.acquisition.get(_KEYWORDS[name]) or None


def _holds(series: Series, name: str, wanted: Value | tuple) -> bool:
    value = _value(series, name)
    if value is None:
        return False
    if isinstance(wanted, tuple):
        low, high = wanted
        return (low is None or float(value) >= low) and (high is None or float(value) <= high)
    if name in _KEYWORDS or name == "description":
        return re.search(str(wanted), str(value), re.IGNORECASE) is not None
    return value == wanted


def _condition_in_words(series: Series, name: str, rule: Rule) -> str:
    """A condition in words, with the value of this series; of a description only whether it matches."""
    if name == "description":
        wanted = rule.conditions[name]
        return "a description that matches" if _holds(series, name, wanted) else "a description that does not match"
    return _value_in_words(series, name)


def _value_in_words(series: Series, name: str) -> str:
    value = _value(series, name)
    words = name.removesuffix("_mm").replace("_", " ")
    if value is None:
        return f"no {words} stated"
    if name == "contrast":
        return "contrast agent" if value else "no contrast agent"
    if name == "n_slices":
        return f"{value} slices"
    return f"{words} {value:g} mm" if isinstance(value, float) else f"{words} {value}"


def _told_apart(series: Series, other: Series) -> str:
    """A name that tells it from the other one: copies of one series differ only in their place."""
    if series.name and series.name != other.name:
        return f"series {series.name}"
    return f"the series in {series.path.name}"


def _slice_spacing_mm(series: Series) -> float | None:
    return round(series.spacing_mm[2], 4) if series.spacing_mm else None  # 1.5000000001 is 1.5


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
