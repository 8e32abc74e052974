"""A plan is a config that loads, whatever the cohort; every line says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_fingerprint import CHEST_BOXES, HEAD_BOXES, cohort, mr, scan, with_regions

from med_transfer.backbones import backbones, find_backbone
from med_transfer.config import load_config
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.data_setup import resolve_preprocessing
from med_transfer.planning import Choice, Plan

mm = st.floats(0.3, 12.0)
scans = st.builds(
    scan,
    modality=st.sampled_from(["CT", "CT", "MR", "PT", ""]),
    plane=st.sampled_from(["axial", "coronal", "sagittal", "oblique"]),
    spacing_mm=st.tuples(mm, mm, mm),
    boxes_mm=st.sampled_from([HEAD_BOXES, CHEST_BOXES, {"body": (12.0, 8.0, 9.0)}, {"body": (1800.0, 400.0, 500.0)}]),
    body_region=st.sampled_from(["head", "chest", "trunk", "unknown"]),
    given_mm=st.none() | st.floats(2.0, 300.0),
)


@st.composite
def cohorts(draw: st.DrawFn):
    """Scans alike, as ``fingerprint_cohort`` lets them through, with boxes that fit the part of the body."""
    one = draw(scans)
    with_region = 30 if one.given_mm else draw(st.sampled_from([0, 0, 7]))
    classes = draw(st.dictionaries(st.sampled_from(["a", "left", "b", "none", "0"]), st.integers(1, 300), min_size=2))
    columns = draw(st.sampled_from([("scan",), ("scan", "scan_post")]))
    return cohort([one] * 3, n_with_region=with_region, n_scans=30, patients_of_class=classes, channels=columns)


@given(cohorts(), st.just("") | st.sampled_from(sorted(backbones())))
def test_every_plan_is_a_config_that_loads_and_suits_its_network(facts, backbone):
    plan = Plan.of(facts, backbone)
    overrides = [f"backbone.name={backbone}"] if backbone else []
    config = load_config(FinetuneConfig, None, overrides, base=plan.values)
    spec = find_backbone(config.backbone.name)
    preprocessing = resolve_preprocessing(spec, config)
    assert preprocessing.n_channels == max(1, len(plan.values["input"].get("channels", ())))
    assert preprocessing.columns == facts.channels
    config.resolved(from_source=spec.weights is not None)  # what is planned can be trained
    with_weights = load_config(FinetuneConfig, None, overrides, base=Plan.of(facts, backbone, own_weights=True).values)
    with_weights.resolved(from_source=True)


@pytest.mark.parametrize("facts", [cohort(), mr(), with_regions()], ids=["head", "mr", "regions"])
def test_the_file_gives_the_same_config_and_a_reason_for_each_choice(facts, tmp_path: Path):
    plan = Plan.of(facts)
    path = tmp_path / "plan.yaml"
    path.write_text(plan.as_yaml(["how to run it"]))
    assert load_config(FinetuneConfig, path) == load_config(FinetuneConfig, None, base=plan.values)
    text = path.read_text()
    assert text.startswith("# how to run it\n# 52 scans of 52 patients")
    assert all(choice.reason in text for choice in plan.choices)
    assert max(map(len, text.splitlines())) < 200


def test_a_command_with_any_name_stays_a_comment(tmp_path):
    path, names = tmp_path / "plan.yaml", "caf\udce9\n- a/c\x1b.csv"
    path.write_text(Plan.of(cohort()).as_yaml([f"finetune {names}"]), encoding="utf-8")
    assert path.read_text(encoding="utf-8").startswith("# finetune caf\\udce9 - a/c\\x1b.csv\n# 52 scans")
    load_config(FinetuneConfig, path)


def test_settings_of_ones_own_take_the_place_of_choices():
    plan = Plan.of(cohort()).with_settings([Choice("transfer.strategy", {"name": "lora"}, "set by you")])
    assert plan.values["transfer"]["strategy"] == {"name": "lora"}
    assert "lora" in plan.as_yaml()
    assert "linear_probe" not in plan.as_yaml()


def test_without_pretraining_the_plan_is_that_of_the_other_rules():
    plan = Plan.of(cohort())
    cheaper = plan.cheaper
    assert cheaper is not None
    assert cheaper == Plan.of(cohort(), pretrains=False)
    assert cheaper.values["input"]["shape"][1:] == [224, 224]
    assert "pretrain" not in cheaper.values["backbone"]
    assert plan.with_settings([Choice("seed", 3, "set by you")]).cheaper == cheaper.with_settings(
        [Choice("seed", 3, "set by you")]
    )
    assert Plan.of(mr()).cheaper is None


@pytest.mark.parametrize("name", ["0", "no", "n", "false"])
def test_a_healthy_class_that_yaml_would_take_for_something_else_is_named(name, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(Plan.of(cohort(patients_of_class={name: 25, "other": 27})).as_yaml())
    assert load_config(FinetuneConfig, path).backbone.pretraining.only_class == name


def test_class_names_are_read_as_they_are_written(tmp_path):
    """Also one that a reader of YAML could take for a number, and one that is not Latin."""
    classes = {"1e5": 30, "左肺": 31, "no": 32, "#3: other": 33}
    path = tmp_path / "plan.yaml"
    path.write_text(Plan.of(cohort(patients_of_class=classes, n_patients=126)).as_yaml(), encoding="utf-8")
    planned_for = load_config(FinetuneConfig, path).planned_for
    assert planned_for is not None
    assert planned_for.classes == classes
    assert "左肺: 31" in path.read_text(encoding="utf-8")
