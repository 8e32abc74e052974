"""Sampled settings are compatible, stay within their limits, and are refused early if they cannot work."""

from __future__ import annotations

import pytest
from small_network import SmallEncoder
from small_run_data import small_config

from med_transfer.config import load_config
from med_transfer.errors import ConfigError, UnknownKey
from med_transfer.tuning import SearchSpace, TuneConfig
from med_transfer.tuning.space import applied, draw, usable_strategies

optuna = pytest.importorskip("optuna")
EVERYTHING = (
    "linear_probe",
    "lp_ft",
    "layerwise_lr_decay",
    "full",
    "gradual_unfreezing",
    "surgical",
    "lora",
    "adapters",
)


def strategies(space: SearchSpace, base=None, *, from_source: bool = True) -> list[str]:
    return usable_strategies(space, base or small_config(), SmallEncoder(), from_source=from_source)


def draws(space: SearchSpace, names: list[str], n: int = 80) -> list[dict]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [draw(study.ask(), space, names) for _ in range(n)]


def test_every_draw_is_a_config_and_stays_in_its_limits():
    space = SearchSpace(
        strategies=EVERYTHING, surgical_stages=((0,), (1, 2)), regularise=((), ("l2_sp",), ("l2_sp", "bss"))
    )
    base, seen = small_config(), set()
    for values in draws(space, strategies(space)):
        config = applied(base, values)
        strategy = config.transfer.strategy.name
        seen.add((strategy, config.transfer.regularise))
        config.resolved(from_source=True)
        if strategy == "linear_probe":
            assert set(values) == {"transfer.strategy", "transfer.regularise"}
            continue
        assert 3e-5 <= (config.transfer.strategy.learning_rate or 0) <= 3e-3
        assert 0 <= config.augmentation.strength <= 2
        assert 0 <= config.augmentation.mixup <= 0.4
        assert 0 <= config.training.dropout <= 0.6
        assert ("transfer.strategy.stage_decay" in values) == (strategy in ("layerwise_lr_decay", "gradual_unfreezing"))
        assert ("transfer.l2_sp.strength" in values) == ("l2_sp" in config.transfer.regularise)
        assert (values.get("transfer.strategy.stages") in ((0,), (1, 2))) == (strategy == "surgical")
        if strategy in ("lora", "adapters"):
            assert config.transfer.regularise == ()
    assert {strategy for strategy, _ in seen} == set(EVERYTHING)
    assert ("full", ("l2_sp", "bss")) in seen


def test_what_is_not_searched_stays_as_the_config_has_it():
    space = SearchSpace(
        strategies=("full",),
        learning_rate=None,
        stage_decay=None,
        augmentation_strength=None,
        mixup=None,
        dropout=(0.1, 0.1),
        regularise=(),
    )
    base = small_config({"learning_rate": 0.02}, transfer={"regularise": ["bss"]})
    for values in draws(space, strategies(space, base), 5):
        assert values == {"transfer.strategy": "full", "training.dropout": 0.1}
        config = applied(base, values)
        assert (config.transfer.strategy.learning_rate, config.transfer.regularise) == (0.02, ("bss",))


def test_automatic_strategies_follow_the_source_and_the_config():
    space = SearchSpace()
    assert strategies(space) == ["linear_probe", "lp_ft", "layerwise_lr_decay", "full", "gradual_unfreezing"]
    assert strategies(space, from_source=False) == ["scratch"]
    averaged = small_config(training={"averaging": "ema"})
    assert "linear_probe" not in strategies(space, averaged)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"strategies": ["scratch"]},
            r"^tuning\.space\.strategies: scratch among the strategies of a config with a source; expected",
        ),
        ({"strategies": ["surgical"]}, "transfer.strategy.surgical.stages: Field required"),
        (
            {"strategies": ["surgical"], "surgical_stages": [[0], [7]]},
            r"^transfer\.strategy\.stages: stages \[7\]; expected numbers",
        ),
        ({"strategies": ["full"], "augmentation_strength": [0, 9]}, r"strength: .*less than or equal to 3"),
        ({"strategies": ["layerwise_lr_decay"], "stage_decay": [0.5, 1]}, "stage_decay: Input should be less than 1"),
    ],
)
def test_a_space_that_cannot_work_is_refused_before_anything_is_read(space, message):
    with pytest.raises(ConfigError, match=message):
        strategies(SearchSpace.model_validate(space))


def test_a_strategy_that_needs_a_source_is_refused_without_one():
    with pytest.raises(ConfigError, match="^transfer: full with a network that starts from random values"):
        strategies(SearchSpace(strategies=("full",)), from_source=False)


def test_a_strategy_that_was_named_and_contradicts_the_config_is_refused():
    with pytest.raises(ConfigError, match="averaging ema with linear_probe"):
        strategies(SearchSpace(strategies=("linear_probe",)), small_config(training={"averaging": "ema"}))


@pytest.mark.parametrize(
    ("override", "kind", "message"),
    [
        ("tuning.space.learning_rat=[1,2]", UnknownKey, r"no such key; expected tuning\.space\.learning_rate"),
        ("tuning.space.mixup=[0.4,0.1]", ConfigError, "the lower limit first, not"),
        ("tuning.space.learning_rate=[0,0.1]", ConfigError, "greater than 0"),
        ("tuning.space.strategies=[auto]", ConfigError, "strategies holds auto, which is another strategy's name"),
        ("tuning.space.strategies=[fulll]", ConfigError, "found 'fulll'"),
        ("training.monitor=loss", ConfigError, "training.monitor loss without tuning.objective"),
    ],
)
def test_a_config_that_is_wrong_says_why(override, kind, message):
    with pytest.raises(kind, match=message):
        load_config(TuneConfig, None, [override])


def test_the_objective_is_what_every_trial_watches():
    config = load_config(TuneConfig, None, ["training.monitor=loss", "tuning.objective=macro_auc"])
    assert (config.objective, config.base.training.monitor) == ("macro_auc", "macro_auc")
    assert "tuning" not in config.base.model_dump()
