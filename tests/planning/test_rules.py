"""One test per rule: from facts to a setting."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_cohort import made_up_cohort
from made_up_fingerprint import CHEST_BOXES, cohort, mr, scan, with_regions

from med_transfer.backbones import describe, find_backbone
from med_transfer.cohorts import Cohort, SplitConfig, split_cohort
from med_transfer.finetuning.config import TrainingConfig
from med_transfer.finetuning.strategies import STRATEGIES
from med_transfer.planning import CohortFingerprint, GivenSettings, Plan, rules
from med_transfer.predictions.labels import Labels

TILES = "tiles-med-transfer-small"
PAGE = Path(__file__).parents[2] / "docs/planning.md"


def chest() -> CohortFingerprint:
    return cohort([scan(boxes_mm=CHEST_BOXES, body_region="chest", spacing_mm=(1.0, 0.7, 0.7))] * 20)


def with_backbone(name: str) -> GivenSettings:
    return GivenSettings({"backbone": {"name": name}} if name else {})


def chosen(rule: rules.Rule, facts: CohortFingerprint, backbone: str = "") -> dict:
    choices = rule(facts, with_backbone(backbone))
    assert all(choice.reason for choice in choices)
    return {choice.key: choice.value for choice in choices}


@pytest.mark.parametrize(
    ("facts", "backbone", "kind"),
    [
        (cohort(), "", "slices"),
        (mr(), "", "slices"),
        (with_regions(), "", "region"),
        (cohort(n_with_region=30), "", "slices"),  # some rows have none
        (cohort(), "resnet18-w32", "whole"),
        (with_regions(), "resnet18-w32", "region"),
        (cohort(), "tiles-resnet18-w32", "tiles"),
        (with_regions(), "slices-resnet50", "slices"),
    ],
)
def test_network_kind(facts, backbone, kind):
    assert rules.network_kind(facts, with_backbone(backbone)) == kind


def test_backbone_comes_with_the_program_and_the_users_choice_stays():
    assert chosen(rules.backbone, cohort())["backbone.name"] == "slices-efficientnet-lite0"
    assert chosen(rules.backbone, with_regions()) == {"backbone.name": "med-transfer-small"}
    plan = Plan.of(cohort(), with_backbone("slices-resnet50")).values["backbone"]
    assert plan == {"instance_pooling": "mean_max"}
    for name in (rules.SLICES, rules.REGION):
        assert dict(describe(find_backbone(name)))["weights"] == "come with med-transfer"


def test_region_is_the_tables_or_an_organ_or_the_body():
    assert chosen(rules.region, with_regions()) == {"input.region": "roi"}
    assert chosen(rules.region, cohort()) == {"input.region": "brain"}
    assert chosen(rules.region, chest()) == {"input.region": "lungs"}
    assert chosen(rules.region, mr()) == {"input.region": "foreground"}


@pytest.mark.parametrize(("missed", "region"), [(1, "brain"), (2, "foreground")])
def test_an_organ_that_is_often_missed_is_not_cut_out(missed, region):
    without = scan(boxes_mm={"body": (155.0, 220.0, 170.0)})
    facts = cohort([scan()] * (60 - missed) + [without] * missed)
    assert chosen(rules.region, facts) == {"input.region": region}


def test_intensities_are_windows_of_the_part_or_each_scans_own_scale():
    head = chosen(rules.intensities, cohort())["input.channels"]
    assert [channel["window_hu"] for channel in head] == [[0, 80], [-20, 180], [-800, 2000]]
    assert {channel["column"] for channel in head} == {"scan"}
    lung = chosen(rules.intensities, chest())["input.channels"]
    assert lung[0]["window_hu"] == [-1350, 150]
    assert chosen(rules.intensities, mr()) == {
        "input.normalisation": "zscore",
        "input.channels": ["scan", "scan_post"],
    }
    assert chosen(rules.intensities, cohort(), TILES) == {}  # the backbone's own window
    assert chosen(rules.intensities, with_regions()) == {}


@pytest.mark.parametrize(("facts", "backbone"), [(cohort, ""), (with_regions, ""), (cohort, TILES), (cohort, "merlin")])
def test_every_scan_of_a_case_is_a_channel_in_ct_too(facts, backbone):
    found = chosen(rules.intensities, facts(channels=("scan", "scan_late")), backbone)
    assert found == {"input.channels": ["scan", "scan_late"]}


def test_modality_is_what_the_scans_are():
    assert chosen(rules.modality, cohort()) == {"input.modality": "CT"}
    assert chosen(rules.modality, mr()) == {"input.modality": None}
    assert chosen(rules.modality, cohort([scan(modality="MR")] * 5)) == {"input.modality": "MR"}


@pytest.mark.parametrize(("plane", "letters"), [("coronal", "PIL"), ("sagittal", "LIP")])
def test_orientation_lets_depth_run_across_the_slices_and_shows_them_upright(plane, letters):
    """Rows of a picture go down: to the feet (I), as those of an axial slice go to the back (P)."""
    turned = cohort([scan(plane=plane)] * 20)
    assert chosen(rules.orientation, turned) == {"input.orientation": letters}
    assert chosen(rules.orientation, cohort()) == {}
    assert chosen(rules.orientation, with_regions()) == {}


def test_size_of_slices_is_as_many_as_lie_in_view():
    brain = chosen(rules.size, cohort())
    assert brain["input.shape"] == [26, 224, 224]  # 130 mm of 5 mm slices
    assert brain["input.fit"] == "proportional"
    assert chosen(rules.size, chest())["input.shape"][0] == rules.MAX_SLICES  # 270 slices of 1 mm
    thick = cohort([scan(spacing_mm=(30.0, 0.4, 0.4))] * 20)
    assert chosen(rules.size, thick)["input.shape"][0] == rules.MIN_SLICES
    for facts, why in (
        (
            cohort(),
            "26 slices, as in the median scan: every scan is resampled to this number; in-plane size as for ImageNet",
        ),
        (
            chest(),
            "48 slices, instead of the 270 of the median scan: every scan is resampled to this number; "
            "in-plane size as for ImageNet",
        ),
    ):
        assert why in [choice.reason for choice in rules.size(facts, GivenSettings())]


def test_size_of_a_region_holds_nine_tenths_of_them():
    small = chosen(rules.size, with_regions(25.0))
    assert (small["input.shape"], small["input.spacing_mm"]) == ([16, 32, 32], [2.0, 1.0, 1.0])
    large = chosen(rules.size, with_regions(80.0))
    assert (large["input.shape"], large["input.spacing_mm"]) == ([16, 32, 32], [5.0, 2.5, 2.5])
    lengths = range(101, 201)
    crops = [scan(boxes_mm={"body": (300.0, 300.0, 300.0)}, given_mm=float(mm)) for mm in lengths]
    varied = chosen(rules.size, cohort(crops, n_with_region=52))
    covered_mm = varied["input.shape"][1] * varied["input.spacing_mm"][1]
    assert sum(mm <= covered_mm for mm in lengths) == 90  # of 100


@pytest.mark.parametrize(
    ("backbone", "shape", "spacing"),
    [
        ("medicalnet-resnet10", [16, 32, 32], [2.0, 1.0, 1.0]),
        ("lung-nodule-resnet50", [32, 32, 16], [1.0, 1.0, 2.0]),  # its axes point to R, A and S
        ("merlin", [16, 32, 32], [2.0, 1.0, 1.0]),
        ("swin-btcv", [32, 32, 32], [1.0, 1.0, 1.0]),  # takes no smaller input
        ("stunet-huge", [64, 64, 64], [0.5, 0.5, 0.5]),
    ],
)
def test_size_of_a_region_suits_the_axes_and_the_least_input_of_a_chosen_network(backbone, shape, spacing):
    found = chosen(rules.size, with_regions(25.0), backbone)
    assert (found["input.shape"], found["input.spacing_mm"]) == (shape, spacing)
    assert "as in the backbone's pretraining" not in str(rules.size(with_regions(25.0), with_backbone(backbone)))


def test_size_of_tiles_of_another_network_has_its_own_spacing():
    found = chosen(rules.size, cohort(), "tiles-astra")
    assert found["input.spacing_mm"] == [3.0, 1.5, 1.5]
    assert found["input.shape"] == [48, 96, 128]  # superior, right, anterior: 130 x 135 x 170 mm


def test_size_of_tiles_is_whole_tiles_over_the_organ():
    brain = chosen(rules.size, cohort(), TILES)
    assert brain["input.spacing_mm"] == [2.0, 1.0, 1.0]
    assert brain["input.shape"] == [64, 160, 128]
    assert all(n % tile == 0 for n, tile in zip(brain["input.shape"], rules.REGION_SHAPE, strict=True))


def test_size_of_a_whole_scan_keeps_proportions():
    assert chosen(rules.size, mr(), "resnet18-w32")["input.fit"] == "isotropic"
    assert chosen(rules.size, mr(), "resnet18-w32")["input.shape"] == [64, 96, 96]
    assert chosen(rules.size, mr(), "models-genesis")["input.shape"] == [96, 96, 64]  # its third axis goes up


def test_strategy_trains_the_network_on_regions_only():
    assert chosen(rules.strategy, cohort()) == {
        "transfer.strategy.name": "linear_probe",
        "from_scratch_baseline": False,
    }
    assert chosen(rules.strategy, with_regions()) == {}


def test_a_network_without_published_weights_is_trained_as_a_whole():
    for backbone in ("resnet18-w8", "tiles-resnet18-w32"):
        found = chosen(rules.random_start, cohort(), backbone)
        assert found == {"transfer.strategy.name": "auto", "from_scratch_baseline": False}
    assert chosen(rules.random_start, cohort()) == chosen(rules.random_start, cohort(), "models-genesis") == {}
    assert chosen(rules.random_start, with_regions(), "resnet18-w8") == {}  # trained as a whole in any case


def test_flips_only_where_sides_do_not_matter():
    assert chosen(rules.flips, with_regions()) == {"augmentation.flips": [0, 1, 2]}
    assert chosen(rules.flips, cohort()) == {}
    for name in ("left lung", "Rechts", "左肺", "left_nodule", "effusion_right", "LeftLung", "side_R", "L"):
        assert chosen(rules.flips, with_regions(patients_of_class={name: 9, "other": 9})) == {"augmentation.flips": []}
    clefts = with_regions(patients_of_class={"cleft": 9, "bright": 9, "Upright": 9, "LR_benign": 9})
    assert chosen(rules.flips, clefts) == {"augmentation.flips": [0, 1, 2]}


def test_monitored_figure_is_steady_with_few_of_a_class():
    assert chosen(rules.monitored, with_regions()) == {"training.monitor": "macro_auc"}
    many = with_regions(patients_of_class={"a": 50, "b": 80})
    assert chosen(rules.monitored, many) == {}


def test_the_page_has_every_rule_and_every_number():
    page = PAGE.read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == [rule.__name__ for rule in rules.RULES]
    for low, high in {window for windows in rules.WINDOWS.values() for _, window in windows}:
        assert f"{low:g} to {high:g}" in page


def test_scans_without_the_organ_are_counted_and_not_rounded_away():
    without = scan(boxes_mm={"body": (155.0, 220.0, 170.0)})
    for n_missed, said in ((0, "found in 300 of 300 scans"), (1, "found in 299 of 300 scans; the others are rejected")):
        (choice,) = rules.region(
            cohort([*[scan()] * (300 - n_missed), *[without] * n_missed], n_scans=300), GivenSettings()
        )
        assert said in choice.reason
    (choice,) = rules.region(cohort([*[scan()] * 49, *[without] * 3]), GivenSettings())
    assert choice.reason.endswith("brain in only 49 of 52")


@pytest.mark.parametrize(
    ("names", "healthy"),
    [
        (("haemorrhage", "none"), "none"),
        (("0", "1"), "0"),
        (("Normal", "stroke", "bleeding"), "Normal"),
        (("no haemorrhage", "haemorrhage"), "no haemorrhage"),
        (("without_bleeding", "bleeding"), "without_bleeding"),
        (("出血", "正常"), "正常"),
        (("nodule", "normal pressure hydrocephalus"), ""),  # words that only begin like that
        (("north", "notch"), ""),
        (("none", "normal", "stroke"), ""),  # two of them: neither is certain to mean no finding
    ],
)
def test_the_class_that_has_nothing_is_found_by_its_name(names, healthy):
    assert rules.healthy_class(cohort(patients_of_class=dict.fromkeys(names, 20))) == healthy


def test_lesions_are_painted_into_few_whole_head_ct_of_a_class_that_has_nothing():
    found = chosen(rules.pretraining, cohort())
    assert found["backbone.pretrain"] == "painted_lesions"
    assert found["backbone.pretraining.only_class"] == "none"
    assert found["input.shape"] == [chosen(rules.size, cohort())["input.shape"][0], 160, 160]
    assert found == chosen(rules.pretraining, cohort(), rules.SLICES)


@pytest.mark.parametrize(
    ("facts", "backbone"),
    [
        (chest(), ""),
        (mr(), ""),
        (with_regions(), ""),
        (cohort(), "slices-resnet50"),
        (cohort(multilabel=True), ""),
        (cohort(channels=("scan", "scan_late")), ""),
        (cohort(patients_of_class={"bleeding": 23, "stroke": 29}), ""),
        (cohort(patients_of_class={"bleeding": 23, "none": 9}), ""),
        (cohort(patients_of_class={"bleeding": 50, "none": 50}), ""),  # enough labels for a network's features
        (cohort(patients_of_class={"epidural": 20, "subdural": 20, "subarachnoid": 20, "none": 20}), ""),
    ],
)
def test_and_into_no_others(facts, backbone):
    assert chosen(rules.pretraining, facts, backbone) == {}


@pytest.mark.parametrize(
    ("rarest", "n_patients", "n_folds"), [(4, 50, 4), (2, 50, 2), (5, 50, None), (4, 90, 3), (5, 90, 4), (1, 50, None)]
)
def test_folds_are_as_many_as_the_rarest_class_can_fill(rarest, n_patients, n_folds):
    facts = cohort(patients_of_class={"a": rarest, "b": n_patients - rarest}, n_patients=n_patients)
    assert chosen(rules.folds, facts) == ({"split.folds": n_folds} if n_folds else {})


@pytest.mark.parametrize(
    ("n_scans", "n_patients", "n_epochs"),
    [
        *((400, 90, None), (800, 90, 30), (100_000, 90, 10)),  # a fifth of the scans is kept apart for the test
        *((400, 50, None), (800, 50, 30), (100_000, 50, 10)),  # a fifth of the training scans says when it stops
    ],
)
def test_epochs_of_a_large_cohort_draw_as_many_scans_as_those_of_a_small_one(n_scans, n_patients, n_epochs):
    facts = replace(with_regions(), n_scans=n_scans, n_with_region=n_scans, n_patients=n_patients)
    assert chosen(rules.epochs, facts) == ({"training.epochs": n_epochs} if n_epochs else {})
    assert chosen(rules.epochs, replace(cohort(), n_scans=n_scans)) == {}


SPLITS = [
    *((120, split) for split in ({}, {"test_fraction": 0}, {"test_fraction": 0.5, "folds": 2}, {"repeats": 2})),
    *((40, split) for split in ({}, {"kind": "holdout"}, {"kind": "holdout", "test_fraction": 0, "folds": 9})),
]
BY_COLUMN = [(120, {}, ("train", "test")), (40, {}, ("train", "val", "test")), (40, {"test_fraction": 0}, ("train",))]


@pytest.mark.parametrize(("n_patients", "split", "column"), [*((*split, ("",)) for split in SPLITS), *BY_COLUMN])
def test_an_epoch_draws_as_many_scans_as_a_fold_model_trains_on(n_patients, split, column):
    labels = ["ab"[n // 2 % 2] for n in range(1200)]
    cases = made_up_cohort(labels, patients=[f"p{n % n_patients}" for n in range(1200)]).cohort.cases
    parts = [column[n % n_patients // 4 % len(column)] if column else "" for n in range(1200)]
    table = Cohort(
        tuple(replace(case, split=part) for case, part in zip(cases, parts, strict=True)), Labels(("a", "b"))
    )
    divided = split_cohort(table, SplitConfig(**split))
    trained_on = np.mean([len(divided.learned_from(fold, steered=True)) for fold in range(divided.n_fold_models)])
    facts = replace(
        with_regions(),
        n_scans=1200,
        n_with_region=1200,
        n_patients=n_patients,
        table_split=Counter(filter(None, parts)),
    )
    (choice,) = rules.epochs(facts, GivenSettings({"split": split}))
    drawn = int(re.findall(r"an epoch draws (\d+) scans", choice.reason)[0])
    assert drawn == pytest.approx(trained_on, rel=0.1)


def test_a_search_keeps_a_test_part_of_a_small_cohort_too_and_so_needs_a_patient_for_it():
    facts = cohort(patients_of_class={"a": 4, "b": 46}, n_patients=50)
    (choice,) = rules.folds(facts, GivenSettings(searches=True))
    assert (choice.value, choice.reason) == (3, "4 patients of class 'a': each fold and the test part have one")


def test_folds_are_made_of_the_patients_that_the_table_leaves_for_training():
    facts = cohort(n_patients=90, patients_of_class={"a": 9, "b": 81}, patients_to_divide={"a": 3, "b": 70})
    assert chosen(rules.folds, replace(facts, table_split={"train": 73, "test": 17})) == {"split.folds": 3}
    assert chosen(rules.folds, replace(facts, table_split={"train": 50, "val": 23, "test": 17})) == {}


def test_folds_are_as_many_as_can_hold_a_patient_without_each_finding():
    facts = cohort(multilabel=True, patients_of_class={"a": 30}, patients_to_divide={"a": 30, "no a": 3})
    (choice,) = rules.folds(facts, GivenSettings())
    assert (choice.value, choice.reason) == (3, "3 patients of class 'no a': each fold has one")


def test_the_strategies_that_the_rules_take_for_frozen_are_those_that_do_not_train():
    assert set(rules.FROZEN) == {name for name, kind in STRATEGIES.items() if not kind.trains}


def test_what_the_rules_take_for_defaults_are_the_defaults():
    training, split = TrainingConfig(), SplitConfig()
    assert (training.epochs, training.epoch_scans, split.folds) == (rules.EPOCHS, rules.EPOCH_SCANS, rules.FOLDS)


@pytest.mark.parametrize(
    ("value", "typed"),
    [
        ({"learning_rate": None, "name": "linear_probe"}, "linear_probe"),
        ({"learning_rate": None, "name": "lora", "rank": 4}, "{name: lora, rank: 4}"),
        ((16, 32, 32), "[16, 32, 32]"),
        (False, "false"),
        ("edge", "edge"),
        (0.5, "0.5"),
    ],
)
def test_a_choice_is_told_as_it_is_typed(value, typed):
    assert rules.Choice("some.key", value, "why").sentence == f"some.key: {typed} (why)"
