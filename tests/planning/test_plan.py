"""A plan is a config that loads, whatever the cohort; every line says why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_fingerprint import CHEST_BOXES, HEAD_BOXES, cohort, mr, scan, with_regions

from med_transfer.backbones import backbones, find_backbone
from med_transfer.config import as_typed, given_values, load_config
from med_transfer.errors import ConfigError
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.data_setup import resolve_preprocessing
from med_transfer.finetuning.unread_settings import ignored_input_settings
from med_transfer.planning import Choice, CohortFingerprint, GivenSettings, Plan
from med_transfer.preprocessing.config import ORGANS

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


def given_by(overrides: Sequence[str], *, pretrains: bool = True) -> GivenSettings:
    return GivenSettings(given_values(FinetuneConfig, overrides), pretrains)


@given(cohorts(), st.just("") | st.sampled_from(sorted(backbones())))
def test_every_plan_is_a_config_that_loads_and_suits_its_network(facts, backbone):
    overrides = [f"backbone.name={backbone}"] if backbone else []
    plan = Plan.of(facts, given_by(overrides))
    config = load_config(FinetuneConfig, None, overrides, base=plan.values)
    spec = find_backbone(config.backbone.name)
    preprocessing = resolve_preprocessing(spec, config)
    assert preprocessing.n_channels == max(1, len(plan.values["input"].get("channels", ())))
    assert preprocessing.columns == facts.channels
    config.resolved(from_source=spec.weights is not None)  # what is planned can be trained
    own_weights = [*overrides, "backbone.weights=own.safetensors"]
    with_weights = load_config(FinetuneConfig, None, own_weights, base=Plan.of(facts, given_by(own_weights)).values)
    with_weights.resolved(from_source=True)


SETTINGS = (  # from which others follow
    *(f"input.region={name}" for name in ("roi", "foreground", "body", "whole", "head", "brain", "lungs")),
    *("input.modality=null", "input.modality=CT", "input.modality=MR", "input.normalisation=zscore"),
    *("input.normalisation=window", "input.window_hu=[0,90]", "input.channels=[scan]", "input.channels=[scan,scan]"),
    "input.channels=[{column: scan, normalisation: zscore}]",
    *("input.orientation=RAS", "input.orientation=lip", "input.fit=stretch", "input.fit=isotropic"),
    *("input.spacing_mm=[3,1,2]", "input.spacing_mm=[0.5,0.5,0.5]", "input.spacing_mm=null", "input.shape=[24,48,64]"),
    *("input.output_range=[0,2]", "input.outside=edge", "augmentation.flips=[0]"),
    *("backbone.name=slices-resnet50", "backbone.name=models-genesis", "backbone.name=tiles-med-transfer-small"),
    *("backbone.name=med-transfer-small", "backbone.name=resnet18-w8", "backbone.weights=own.safetensors"),
    *("backbone.instance_pooling=top_k", "backbone.pretrain=null", "backbone.pretraining.head_reads=features"),
    *("backbone.pretraining.only_class=a", "backbone.pretraining.steps=9"),
    *(
        "transfer.strategy=full",
        "transfer.strategy=scratch",
        "transfer.strategy=lora",
        "transfer.strategy=linear_probe",
    ),
    *("transfer.strategy.stage_decay=1", "transfer.strategy.learning_rate=0.01", "transfer.batch_norm=train"),
    *("transfer.regularise=[l2_sp]", "training.freeze_norm_statistics=false"),
    *("transfer.on_harm=fallback", "from_scratch_baseline=true", "from_scratch_baseline=false"),
    *("split.folds=3", "split.kind=holdout", "split.test_fraction=0", "split.test_fraction=0.4", "split.repeats=2"),
    *("training.epochs=7", "training.epoch_scans=900", "training.monitor=loss", "calibration.method=none"),
)


TRAINED_STATISTICS = {"transfer.batch_norm", "training.freeze_norm_statistics"}


def key_of(override: str) -> str:
    return override.partition("=")[0]


def contradict_each_other(config: FinetuneConfig, overrides: Sequence[str]) -> bool:
    """Settings of the user that no plan can reconcile."""
    keys, texts = {key_of(text) for text in overrides}, set(overrides)
    return bool(
        {"input.fit", "input.spacing_mm"} <= keys
        or (config.input.region in ORGANS and keys & {"input.modality", "input.normalisation", "input.channels"})
        or (config.backbone.name == "resnet18-w8" and keys & {"transfer.strategy", "transfer.regularise"})
        or {"transfer.on_harm=fallback", "from_scratch_baseline=false"} <= texts
        or ("transfer.strategy=linear_probe" in texts and keys & {"transfer.regularise", *TRAINED_STATISTICS})
        or (any("scratch" in text for text in texts) and keys & {"transfer.regularise"})
        or ("transfer.strategy.stage_decay=1" in texts and "transfer.strategy" in keys)
        or ("transfer.strategy=scratch" in texts and keys & {"backbone.weights", "transfer.on_harm"})
        or ("split.repeats=2" in texts and keys & {"split.kind", "split.test_fraction"})
    )


@settings(max_examples=150)
@given(cohorts(), st.lists(st.sampled_from(SETTINGS), max_size=2, unique_by=key_of))
def test_what_the_user_sets_stands_and_the_rest_of_the_plan_suits_it(facts, overrides):
    """Refused were a voxel size beside the planned ``input.fit``, z-scores beside the planned organ, and the like."""
    plan = Plan.of(facts, given_by(overrides))
    assert not {choice.key for choice in plan.choices} & {key_of(text) for text in overrides}
    try:
        config = load_config(FinetuneConfig, None, overrides, base=plan.values)
        spec = find_backbone(config.backbone.name)
        preprocessing = resolve_preprocessing(spec, config)
        has_weights = spec.weights is not None or config.backbone.weights is not None
        config.resolved(from_source=has_weights and config.transfer.strategy.name != "scratch")
    except ConfigError:
        asked = load_config(FinetuneConfig, None, [text for text in overrides if "=scratch" not in text])
        assert contradict_each_other(asked, overrides) or organ_of_scans_without_units(facts, asked)
    else:
        unread = [sentence.split()[0] for sentence in ignored_input_settings(config.input, preprocessing)]
        assert all(any(key.startswith(key_of(text)) for text in overrides) for key in unread)


def organ_of_scans_without_units(facts: CohortFingerprint, asked: FinetuneConfig) -> bool:
    return asked.input.region in ORGANS and facts.modality != "CT"


@given(cohorts(), st.data())
def test_a_user_who_sets_what_is_planned_gets_the_same_plan(facts, data):
    plan = Plan.of(facts, given_by((), pretrains=False))
    choice = data.draw(st.sampled_from(plan.choices))
    again = Plan.of(facts, given_by([f"{choice.key}={as_typed(choice.value)}"], pretrains=False))
    assert {one.key: one.value for one in again.choices} == {
        one.key: one.value for one in plan.choices if one.key != choice.key
    }


@pytest.mark.parametrize("region", ["whole", "foreground", "lungs"])
def test_regions_that_the_user_looks_away_from_are_as_if_they_were_not_there(region):
    """Of whole scans, a network was shown 32 mm in the middle, as was planned for regions."""
    setting = given_by([f"input.region={region}"])
    chest = scan(boxes_mm=CHEST_BOXES | {"whole": (340.0, 400.0, 400.0)}, body_region="chest")
    without = Plan.of(cohort([chest] * 20), setting)
    assert Plan.of(cohort([chest] * 20, n_with_region=52), setting).choices == without.choices
    values = without.values
    assert values["backbone"]["name"] == "slices-efficientnet-lite0"
    assert values["transfer"]["strategy"]["name"] == "linear_probe"
    assert values["input"]["shape"][0] == {"whole": 48, "foreground": 48, "lungs": 48}[region]


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
    assert cheaper == Plan.of(cohort(), GivenSettings(pretrains=False))
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
