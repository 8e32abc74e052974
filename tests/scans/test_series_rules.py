"""Which series of a study is chosen, and that every series gets a reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hospital_export import SECRETS, export_series
from hypothesis import given
from hypothesis import strategies as st

from med_transfer.config import load_config
from med_transfer.errors import ConfigError, UnknownKey
from med_transfer.page.language import translator
from med_transfer.scans import Series, Verdict, find_series
from med_transfer.scans.search.series_rules import Rule, SeriesRules, choose, may_match

CONFIGS = sorted((Path(__file__).parents[2] / "configs/series").glob("*.yaml"))


def series(name: str = "1", *, study: str = "S", n_slices: int = 60, spacing_mm: float = 2.0, **other) -> Series:
    acquisition = {key: other.pop(key) for key in list(other) if key[0].isupper()}
    affine = np.diag([1.0, 1.0, spacing_mm, 1.0])
    values = {"format": "dicom", "modality": "CT", "verdict": Verdict(), "affine": affine, **other}
    return Series(
        Path(name),
        (Path(name),),
        study_uid=study,
        series_uid=name,
        n_slices=n_slices,
        acquisition=acquisition,
        **values,
    )


def rules(**lists) -> SeriesRules:
    return SeriesRules.model_validate(lists)


def said(found: list[Series], given: SeriesRules | None) -> dict[str, str]:
    return {choice.series.name: choice.reason for choice in choose(found, given)}


def taken(found: list[Series], given: SeriesRules | None) -> list[str]:
    return [choice.series.name for choice in choose(found, given) if choice.chosen]


SOFT, SHARP = series("soft", ConvolutionKernel="B30f"), series("sharp", ConvolutionKernel="B70f")
REJECTED = series("bad", verdict=Verdict(rejections=("2 slices",)))


def test_without_rules_every_usable_series_is_listed_and_says_how_many_there_are():
    found = [SOFT, SHARP, REJECTED, series("other", study="T"), series("file", study="", format="nifti")]
    assert taken(found, None) == ["soft", "sharp", "other", "file"]
    assert said(found, None) == {
        "soft": "one of 2 usable series of its study; no rules given",
        "sharp": "one of 2 usable series of its study; no rules given",
        "bad": "not usable: see its verdict",
        "other": "only usable series of its study",
        "file": "names no study: stands alone",
    }


def test_a_preference_decides_and_both_say_so():
    assert said([SHARP, SOFT], rules(prefer=[{"kernel": "^b30"}])) == {
        "soft": "chosen: prefers kernel B30f over kernel B70f of series sharp",
        "sharp": "not chosen: prefers kernel B30f of series soft over kernel B70f",
    }


def test_the_first_preference_that_separates_decides():
    thin_sharp = series("a", spacing_mm=1.0, ConvolutionKernel="B70f")
    thick_soft = series("b", spacing_mm=5.0, ConvolutionKernel="B30f")
    kernel, thin = {"kernel": "B3"}, {"slice_spacing_mm": [None, 2]}
    same = {"modality": "CT"}
    assert taken([thin_sharp, thick_soft], rules(prefer=[same, kernel, thin])) == ["b"]
    assert taken([thin_sharp, thick_soft], rules(prefer=[same, thin, kernel])) == ["a"]


def test_requirements_and_exclusions_name_their_rule():
    found = [SOFT, SHARP, series("mr", modality="MR")]
    given = rules(require=[{"modality": "CT"}], exclude=[{"manufacturer": "x"}, {"kernel": "b[67]0", "modality": "CT"}])
    assert said(found, given) == {
        "soft": "chosen: the only one of 3 usable that the rules admit",
        "sharp": "not chosen: excluded by rule 2, modality CT, kernel B70f",
        "mr": "not chosen: requirement 1 not met, modality MR",
    }


def test_what_cannot_be_used_is_asked_for_by_what_is_known_of_it():
    """It has no plane and no spacing; all else must be as the rules have it."""
    bad = replace(SHARP, affine=None, verdict=Verdict(rejections=("2 slices missing",)))
    volume = {"plane": "axial", "slice_spacing_mm": [None, 3]}
    assert may_match(bad, rules(require=[volume | {"modality": "CT"}]))
    assert may_match(bad, rules(require=[volume], exclude=[{"plane": "axial"}]))
    assert not may_match(bad, rules(require=[volume | {"modality": "MR"}]))
    assert not may_match(bad, rules(require=[volume], exclude=[{"kernel": "b70"}]))
    assert not may_match(SHARP, rules(require=[{"plane": "coronal"}]))  # its plane is known
    assert not may_match(replace(bad, n_slices=3), rules(require=[volume | {"n_slices": [40, None]}]))


def test_the_reasons_are_said_in_chinese_too():
    t = translator("zh-TW")
    preferred, excluded = rules(prefer=[{"kernel": "^b30"}]), rules(exclude=[{"kernel": "b70", "modality": "CT"}])
    assert [t.translated(choice.reason) for choice in choose([SOFT, SHARP], preferred)] == [
        "選用：重建核 B30f，優先於重建核 B70f（序列 sharp）",
        "未選用：重建核 B30f（序列 soft）優先於重建核 B70f",
    ]
    assert [t.translated(choice.reason) for choice in choose([SOFT, SHARP, REJECTED], excluded)] == [
        "選用：2 個可用序列中唯一符合規則者",
        "未選用：依第 1 項排除規則排除，影像類型 CT、重建核 B70f",
        "無法使用：請見其檢核結果",
    ]


def test_what_is_equal_is_decided_by_slices_then_spacing_then_name():
    few, many = series("few", n_slices=40), series("many", n_slices=50)
    assert said([few, many], rules())["many"] == "chosen: prefers 50 slices over 40 slices of series few"
    thick, thin = series("thick", spacing_mm=3.0), series("thin", spacing_mm=1.25)
    reason = "not chosen: prefers slice spacing 1.25 mm of series thin over slice spacing 3 mm"
    assert said([thick, thin], rules())["thick"] == reason
    assert taken([series("b"), series("a")], rules()) == ["a"]
    copies = [replace(series("1"), path=Path(name)) for name in ("y", "x")]
    chosen, other = sorted(choose(copies, rules()), key=lambda choice: not choice.chosen)
    assert chosen.series.path == Path("x")
    assert other.reason == "not chosen: prefers the first by name of the series in x over the equal images"


def test_each_study_has_its_own_choice_and_files_without_one_stand_alone():
    found = [series("1"), series("2", study="T"), series("3", study=""), series("4", study="")]
    assert taken(found, rules()) == ["1", "2", "3", "4"]
    assert said(found, rules())["3"] == "chosen: meets the rules; names no study"


def test_a_study_uid_that_two_patients_share_is_two_studies(tmp_path):
    for patient in ("A", "B"):
        export_series(tmp_path / patient, secrets=False, StudyInstanceUID="1.2.3", PatientID=patient)
    assert [choice.chosen for choice in choose(find_series(tmp_path), rules())] == [True, True]


@pytest.mark.parametrize(
    ("rule", "fits", "fits_not"),
    [
        ({"modality": "MR"}, series(modality="MR"), series()),
        ({"kernel": "b30|^standard$"}, series(ConvolutionKernel="STANDARD"), series(ConvolutionKernel="STANDARD+")),
        ({"slice_thickness_mm": [0.5, 1.5]}, series(SliceThickness="1.500"), series(SliceThickness="1.501")),
        ({"slice_thickness_mm": [0, 9]}, series(SliceThickness="5"), series(SliceThickness="thick")),
        ({"slice_spacing_mm": [1.0, None]}, series(spacing_mm=1.0 - 1e-9), series(spacing_mm=0.9)),
        ({"contrast": True}, series(ContrastBolusAgent="Iohexol"), series(ContrastBolusAgent="NONE")),
        ({"contrast": False}, series(), series(ContrastBolusAgent="Iohexol")),
        ({"contrast": False}, series(), series(format="nifti")),  # which says nothing about it
        ({"plane": "axial"}, series(), series(affine=np.eye(4)[[2, 0, 1, 3]])),
        ({"plane": "axial"}, series(), series(affine=None)),
        ({"n_slices": [None, 60]}, series(n_slices=60), series(n_slices=61)),
        ({"body_part": "chest|thorax"}, series(BodyPartExamined="CHEST"), series()),
        ({"image_type": r"original\\primary"}, series(ImageType="ORIGINAL\\PRIMARY"), series(ImageType="DERIVED")),
        ({"manufacturer": "siemens"}, series(Manufacturer="SIEMENS"), series(Manufacturer="GE")),
        ({"format": "nifti"}, series(format="nifti"), series()),
    ],
)
def test_every_condition(rule, fits, fits_not):
    assert Rule.model_validate(rule).unmet(fits) == ""
    assert Rule.model_validate(rule).unmet(fits_not) == next(iter(rule))


def test_a_description_decides_and_is_never_quoted(tmp_path):
    export_series(tmp_path / "thin", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.1")
    export_series(
        tmp_path / "mip", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.2", SeriesDescription="SECRETX MIP"
    )
    found = find_series(tmp_path)
    for lists in (
        {"prefer": [{"description": "thorax"}]},
        {"exclude": [{"description": "mip"}]},
        {"require": [{"description": "secretseriestext"}]},
    ):
        assert taken(found, rules(**lists)) == ["1.2.3.1"]
        assert "SECRET" not in " ".join(said(found, rules(**lists)).values())
    reasons = said(found, rules(exclude=[{"description": "mip"}]))
    assert reasons["1.2.3.2"] == "not chosen: excluded by rule 1, a description that matches"
    assert SECRETS["SeriesDescription"].startswith("SECRETSERIESTEXT")  # so that the search above is able to fail


KERNELS, SPACINGS = ("B30f", "B70f"), (1.0, 2.0, 5.0)
some_series = st.fixed_dictionaries(
    {
        "study": st.sampled_from(("S", "T", "")),
        "kernel": st.sampled_from(KERNELS),
        "n": st.integers(3, 5),
        "mm": st.sampled_from(SPACINGS),
        "usable": st.booleans(),
    }
)


@given(st.lists(some_series, max_size=8), st.permutations(range(8)))
def test_one_series_a_study_whatever_the_order_and_a_reason_for_each(drawn, order):
    made = [
        series(
            str(k),
            study=one["study"],
            n_slices=one["n"],
            spacing_mm=one["mm"],
            ConvolutionKernel=one["kernel"],
            verdict=Verdict() if one["usable"] else Verdict(rejections=("bad",)),
        )
        for k, one in enumerate(drawn)
    ]
    given_rules = rules(require=[{"slice_spacing_mm": [None, 2]}], prefer=[{"kernel": "B3"}])
    choices = choose(made, given_rules)
    assert [choice.series for choice in choices] == made
    assert all(choice.reason for choice in choices)
    assert not [one for one in choices if one.chosen and not one.series.verdict.usable]
    for study in ("S", "T"):
        admitted = [k for k, one in enumerate(drawn) if one["study"] == study and one["usable"] and one["mm"] <= 2]
        best = min(
            admitted, key=lambda k: (drawn[k]["kernel"] != "B30f", -drawn[k]["n"], drawn[k]["mm"], str(k)), default=None
        )
        chosen = [k for k, choice in enumerate(choices) if choice.chosen and drawn[k]["study"] == study]
        assert chosen == ([] if best is None else [best])
    shuffled = [made[k] for k in order if k < len(made)]
    assert {c.series.name: c for c in choose(shuffled, given_rules)} == {c.series.name: c for c in choices}


def test_nothing_to_choose_from():
    assert choose([], rules()) == []


# rules on disk


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_worked_examples_can_be_read(path):
    given = load_config(SeriesRules, path)
    assert given.require
    assert given.prefer


def test_there_are_worked_examples():
    assert {path.stem for path in CONFIGS} >= {"chest_ct", "brain_mr_t1"}


def test_chest_example_takes_the_thin_soft_series(tmp_path):
    found = [
        series("thick", n_slices=60, spacing_mm=5.0, ConvolutionKernel="B30f", ImageType="ORIGINAL\\PRIMARY\\AXIAL"),
        series("lung", n_slices=320, spacing_mm=1.0, ConvolutionKernel="B70f", ImageType="ORIGINAL\\PRIMARY\\AXIAL"),
        series("soft", n_slices=300, spacing_mm=1.0, ConvolutionKernel="B30f", ImageType="ORIGINAL\\PRIMARY\\AXIAL"),
        series("made", n_slices=400, spacing_mm=1.0, ConvolutionKernel="B30f", ImageType="DERIVED\\SECONDARY\\MPR"),
    ]
    (example,) = [path for path in CONFIGS if path.stem == "chest_ct"]
    without_description = load_config(SeriesRules, example)
    kept = tuple(rule for rule in without_description.exclude if not rule.description)  # these series have no files
    assert taken(found, without_description.model_copy(update={"exclude": kept})) == ["soft"]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("requires: []", UnknownKey, r"requires: no such key; expected require perhaps"),
        ("require:\n - kernal: B30", UnknownKey, r"require\.0\.kernal: no such key"),
        (
            "prefer:\n - kernel: '['",
            ConfigError,
            r"prefer\.0\.kernel: found '\['; expected a regular expression \(unterm",
        ),
        ("prefer:\n - kernel: ''", ConfigError, r"prefer\.0\.kernel: found ''"),
        ("require:\n - {}", ConfigError, r"require\.0: a rule without a condition"),
        (
            "require:\n - n_slices: [5, 2]",
            ConfigError,
            r"n_slices: found \[5, 2\]; expected .*the smaller number first",
        ),
        ("require:\n - n_slices: [null, null]", ConfigError, r"at least one of them a number"),
        ("require:\n - slice_spacing_mm: [-1, 2]", ConfigError, r"slice_spacing_mm.*greater than or equal to 0"),
        ("require:\n - plane: axal", ConfigError, r"plane: found 'axal'; expected 'axial', 'coronal', 'sagittal'"),
        ("exclude:\n - modality: CR", ConfigError, r"modality: found 'CR'; expected 'CT', 'MR' or 'PT'"),
    ],
)
def test_wrong_rules_are_refused_by_name(tmp_path, text, kind, message):
    (tmp_path / "rules.yaml").write_text(text)
    with pytest.raises(kind, match=message):
        load_config(SeriesRules, tmp_path / "rules.yaml")
