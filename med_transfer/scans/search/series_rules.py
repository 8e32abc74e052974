"""Rules for which series of a study to use, and the reason for every series, chosen or not.

A PACS study contains several series of a patient: thin and thick slices, soft and sharp kernels, before and after
contrast, reformats. :func:`choose` selects one series per study and says why, from headers alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from med_transfer.errors.sentence import Sentence, listed
from med_transfer.scans.search.description import states_contrast
from med_transfer.scans.search.identity import identity
from med_transfer.scans.series import Series

_KEYWORDS = {  # conditions that match a pattern, and the DICOM attribute they search
    "kernel": "ConvolutionKernel",
    "body_part": "BodyPartExamined",
    "image_type": "ImageType",
    "manufacturer": "Manufacturer",
}
_OF_VOLUME = ("plane", "slice_spacing_mm")  # measured; known only if the slices form a volume
_IN_WORDS = {
    "modality": Sentence("modality"),
    "kernel": Sentence("kernel"),
    "slice_thickness_mm": Sentence("slice thickness"),
    "slice_spacing_mm": Sentence("slice spacing"),
    "contrast": Sentence("contrast"),
    "plane": Sentence("plane"),
    "n_slices": Sentence("n slices"),
    "body_part": Sentence("body part"),
    "description": Sentence("description"),
    "image_type": Sentence("image type"),
    "manufacturer": Sentence("manufacturer"),
    "format": Sentence("format"),
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
        """The conditions that are set, by name."""
        return {name: wanted for name in type(self).model_fields if (wanted := getattr(self, name)) is not None}

    def unmet(self, series: Series) -> str:
        """The name of the first condition that a series does not meet; empty if it meets all."""
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
    """Whether a series is used, and why; the reason never contains a SeriesDescription."""

    series: Series
    chosen: bool
    reason: Sentence


def choose(series: Sequence[Series], rules: SeriesRules | None = None) -> list[Choice]:
    """Decide for every series, returned in the given order, whether it is used and why.

    With rules, at most one usable series per study is chosen; without, every usable one. A series without a study (such
    as every NIfTI file) is a study of its own. The choice does not depend on the order of the series.

    Raises:
        UnreadableScan: a rule needs the description and the file can no longer be read.
    """
    studies: dict[Hashable, list[Series]] = defaultdict(list)
    for number, candidate in enumerate(series):
        studies[_study(candidate, number)].append(candidate)
    choices = [choice for candidates in studies.values() for choice in _study_choices(candidates, rules)]
    by_series = {id(choice.series): choice for choice in choices}
    return [by_series[id(candidate)] for candidate in series]


def may_match(series: Series, rules: SeriesRules) -> bool:
    """Whether the rules admit a series as far as is known: slices that form no volume have no plane or spacing."""

    def may_meet(rule: Rule) -> bool:
        return all(
            _holds(series, name, wanted) or (name in _OF_VOLUME and _value(series, name) is None)
            for name, wanted in rule.conditions.items()
        )

    return all(map(may_meet, rules.require)) and all(rule.unmet(series) for rule in rules.exclude)


def _study(series: Series, number: int) -> Hashable:
    """Key of a series' study; includes the patient, as poor anonymisation may give several one StudyInstanceUID."""
    return (series.study_uid, series.slices[0].patient_mark if series.slices else "") if series.study_uid else number


def _study_choices(candidates: Sequence[Series], rules: SeriesRules | None) -> list[Choice]:
    usable = [series for series in candidates if series.verdict.usable]
    choices = [
        Choice(series, False, Sentence("not usable: see its verdict"))
        for series in candidates
        if not series.verdict.usable
    ]
    if rules is None:
        return choices + [Choice(series, True, _without_rules(series, len(usable))) for series in usable]
    refusals = [(series, _refusal(series, rules)) for series in usable]
    choices += [Choice(series, False, refusal) for series, refusal in refusals if refusal]
    admitted = [series for series, refusal in refusals if not refusal]
    return choices + _ranked(admitted, rules, len(usable))


def _without_rules(series: Series, usable: int) -> Sentence:
    if not series.study_uid:
        return Sentence("names no study: stands alone")
    if usable == 1:
        return Sentence("only usable series of its study")
    return Sentence("one of {n} usable series of its study; no rules given", n=usable)


def _refusal(series: Series, rules: SeriesRules) -> Sentence | None:
    for number, rule in enumerate(rules.require, start=1):
        if unmet := rule.unmet(series):
            what = _condition_in_words(series, unmet, rule)
            return Sentence("not chosen: requirement {number} not met, {what}", number=number, what=what)
    for number, rule in enumerate(rules.exclude, start=1):
        if not rule.unmet(series):
            met = listed(*(_condition_in_words(series, name, rule) for name in rule.conditions))
            return Sentence("not chosen: excluded by rule {number}, {what}", number=number, what=met)
    return None


def _ranked(candidates: Sequence[Series], rules: SeriesRules, usable: int) -> list[Choice]:
    if not candidates:
        return []
    best, *runners_up = sorted(candidates, key=lambda series: _rank(series, rules))
    if not runners_up:
        return [Choice(best, True, Sentence("chosen: {why}", why=_alone(best, usable)))]
    over, under = _difference(best, runners_up[0], rules)
    other = _distinguishing_name(runners_up[0], best)
    reason = Sentence("chosen: prefers {better} over {worse} of {other}", better=over, worse=under, other=other)
    return [Choice(best, True, reason), *(_not_chosen(series, best, rules) for series in runners_up)]


def _alone(series: Series, usable: int) -> Sentence:
    if not series.study_uid:
        return Sentence("meets the rules; names no study")
    if usable == 1:
        return Sentence("only usable series of its study")
    return Sentence("the only one of {n} usable that the rules admit", n=usable)


def _not_chosen(series: Series, best: Series, rules: SeriesRules) -> Choice:
    over, under = _difference(best, series, rules)
    other = _distinguishing_name(best, series)
    reason = Sentence("not chosen: prefers {better} of {other} over {worse}", better=over, worse=under, other=other)
    return Choice(series, False, reason)


def _rank(series: Series, rules: SeriesRules) -> tuple:
    fulfilled = tuple(bool(rule.unmet(series)) for rule in rules.prefer)  # False (rule met) sorts first
    spacing = _slice_spacing_mm(series)
    thin = float("inf") if spacing is None else spacing
    return fulfilled, -series.n_slices, thin, series.name, str(series.path), series.files


def _difference(better: Series, worse: Series, rules: SeriesRules) -> tuple[Sentence, Sentence]:
    """The first property in which two ranked series differ: its value for the better and for the worse one."""
    for rule in rules.prefer:
        unmet = rule.unmet(worse)
        if unmet and not rule.unmet(better):
            return _condition_in_words(better, unmet, rule), _condition_in_words(worse, unmet, rule)
    for name in ("n_slices", "slice_spacing_mm"):
        first, second = _value_in_words(better, name), _value_in_words(worse, name)
        if first != second:
            return first, second
    return Sentence("the first by name"), Sentence("the equal images")


# Properties of a series ---------------------------------------------------------------------------------------


def _value(series: Series, name: str) -> Value:
    """The property that a condition checks; None if the files do not state it."""
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


def _condition_in_words(series: Series, name: str, rule: Rule) -> Sentence:
    """A condition in words, with the series' value; for a description only whether it matches."""
    if name == "description":
        if _holds(series, name, rule.conditions[name]):
            return Sentence("a description that matches")
        return Sentence("a description that does not match")
    return _value_in_words(series, name)


def _value_in_words(series: Series, name: str) -> Sentence:
    value, what = _value(series, name), _IN_WORDS[name]
    if value is None:
        return Sentence("no {what} stated", what=what)
    if name == "contrast":
        return Sentence("contrast agent") if value else Sentence("no contrast agent")
    if name == "n_slices":
        return Sentence("{n} slices", n=value)
    if isinstance(value, float):
        return Sentence("{what} {mm:g} mm", what=what, mm=value)
    return Sentence("{what} {value}", what=what, value=value)


def _distinguishing_name(series: Series, other: Series) -> Sentence:
    """A name that distinguishes a series from the other one; copies differ only in their folder."""
    if series.name and series.name != other.name:
        return Sentence("series {name}", name=series.name)
    return Sentence("the series in {folder}", folder=series.path.name)


def _slice_spacing_mm(series: Series) -> float | None:
    return round(series.spacing_mm[2], 4) if series.spacing_mm else None  # 1.5000000001 is 1.5


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
