"""A plan knows the cohort it was made for; another one is recognised, or refused if it cannot fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_fingerprint import CHEST_BOXES, cohort, mr, scan, with_regions

from med_transfer.config import load_config
from med_transfer.errors import ConfigError
from med_transfer.finetuning import FinetuneConfig
from med_transfer.planning import CohortFingerprint, GivenSettings, Plan, PlannedFor

HEADS = PlannedFor.of(cohort())


def chests() -> CohortFingerprint:
    return cohort([scan(boxes_mm=CHEST_BOXES, body_region="chest", spacing_mm=(1.0, 0.7, 0.7))] * 4)


def test_the_plan_keeps_what_it_was_made_from(tmp_path: Path):
    path = tmp_path / "plan.yaml"
    path.write_text(Plan.of(cohort(), GivenSettings({"backbone": {"name": "resnet18-w32"}})).as_yaml())
    assert load_config(FinetuneConfig, path).planned_for == HEADS
    assert "classes: {haemorrhage: 23, none: 29}" in path.read_text()


def test_the_same_cohort_differs_in_nothing_also_by_a_few_of_its_scans():
    assert HEADS.differences(PlannedFor.of(cohort([scan(spacing_mm=(5.5, 0.4, 0.4))] * 4))) == []
    assert HEADS.differences(PlannedFor.of(cohort([scan(body_region="unknown")] * 4))) == []


def test_a_few_scans_of_a_cohort_of_many_kinds_are_of_it_too():
    thin, thick = scan(spacing_mm=(1.0, 0.7, 0.7)), scan(spacing_mm=(2.5, 0.7, 0.7), boxes_mm=CHEST_BOXES)
    many_kinds = PlannedFor.of(cohort([thin] * 14 + [thick] * 6))
    few = PlannedFor.of(cohort([thick] * 4))
    assert many_kinds.differences(few) == []
    assert PlannedFor.of(cohort([thin] * 20)).differences(few) != []
    of_before = many_kinds.model_copy(update={"spacing_range_mm": None, "body_range_mm": None})
    assert of_before.differences(few)[0].startswith("spacing: planned for 1, 0.7, 0.7 mm, here 2.5, 0.7, 0.7 mm")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (mr(), "planned for modality CT, and the table has not stated, without Hounsfield units"),
        (cohort([scan(modality="MR")] * 4), "planned for modality CT, and the table has MR"),
        (cohort(patients_of_class={"a": 5, "b": 5, "c": 5}), "planned for classes 2 .one a scan., and the table has 3"),
        (cohort(multilabel=True), "the table has 2 .several a scan."),
    ],
)
def test_what_cannot_fit_is_refused(other, words):
    with pytest.raises(ConfigError, match=rf"^other\.csv: .*{words}") as refused:
        HEADS.differences(PlannedFor.of(other), "other.csv")
    assert str(refused.value).startswith("other.csv: ")
    assert "med-transfer plan" in str(refused.value)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (chests(), ["part of the body: planned for head, here chest", "spacing: planned for 5, 0.43, 0.43 mm"]),
        (
            cohort(patients_of_class={"haemorrhage": 9, "none": 80}),
            ["patients of each class: planned for haemorrhage 23"],
        ),
        (
            cohort(patients_of_class={"ill": 23, "well": 29}),
            ["class names: planned for haemorrhage, none, here ill, well"],
        ),
        (with_regions(), ["regions in every row: planned for no, here yes"]),
        (cohort([scan(plane="coronal")] * 4), ["slices: planned for axial, here coronal"]),
        (cohort(channels=("scan", "scan_post")), ["scan columns: planned for scan, here scan, scan_post"]),
    ],
)
def test_what_is_merely_different_is_said(other, words):
    told = HEADS.differences(PlannedFor.of(other))
    assert all(any(sentence.startswith(start) for sentence in told) for start in words), told
