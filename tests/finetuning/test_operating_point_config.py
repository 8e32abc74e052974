"""The ``operating_point`` section as a user types it."""

import pytest

from med_transfer.config import dump_config, load_config
from med_transfer.errors import ConfigError, UnknownKey
from med_transfer.finetuning import FinetuneConfig

COSTS = "operating_point.costs={a: {b: 1}, b: {a: 5}}"


def wanted(*words: str) -> FinetuneConfig:
    return load_config(FinetuneConfig, None, [f"operating_point.{word}" for word in words])


def test_a_sensitivity_is_typed_with_the_word_class_and_comes_back_from_the_file(tmp_path):
    config = wanted("rule=sensitivity", "class=part-solid", "at_least=0.95")
    assert config.operating_point.for_class == "part-solid"
    dump_config(config, tmp_path / "config.yaml")
    assert "class: part-solid" in (tmp_path / "config.yaml").read_text()
    assert load_config(FinetuneConfig, tmp_path / "config.yaml") == config


def test_thresholds_and_costs_are_set_one_by_one():
    point = wanted("rule=thresholds", "thresholds.solid=0.3", "thresholds.part-solid=0.1").operating_point
    assert point.thresholds == {"solid": 0.3, "part-solid": 0.1}
    costs = wanted("rule=cost", "costs.a.b=1", "costs.b.a=5").operating_point.costs
    assert costs == load_config(FinetuneConfig, None, ["operating_point.rule=cost", COSTS]).operating_point.costs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("rule=youden", "at_least=0.9"), "at_least with rule youden, which takes no other key"),
        (("rule=cost", "thresholds.a=0.5", "costs.a.b=1"), "thresholds with rule cost, which takes costs"),
        (("class=solid",), "class with rule balanced_argmax"),
        (("rule=sensitivity", "class=solid"), "rule sensitivity without at_least"),
        (("rule=cost",), "rule cost without costs"),
        (("rule=thresholds",), "rule thresholds without thresholds"),
        (("rule=sensitivity", "at_least=95"), "at_least: found 95; expected a value less than or equal to 1"),
        (("rule=thresholds", "thresholds.a=1.5"), "thresholds.a: found 1.5"),
        (("rule=cost", "costs.a.b=-1"), "costs.a.b: found -1"),
        (
            ("rule=best",),
            "rule: found 'best'; expected 'balanced_argmax', 'argmax', 'youden', 'sensitivity', 'cost' or",
        ),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        wanted(*words)


def test_an_unknown_key_is_named_with_the_nearest():
    with pytest.raises(UnknownKey, match="operating_point.at_leest: no such key; expected operating_point.at_least"):
        wanted("at_leest=0.9")


def test_a_threshold_is_not_chosen_for_a_model_that_the_validation_scans_have_fitted():
    with pytest.raises(ConfigError, match=r"operating_point.rule youden with fusion.report fused"):
        load_config(
            FinetuneConfig,
            None,
            ["operating_point.rule=youden", "fusion.use=[network,handcrafted]", "fusion.report=fused"],
        )
