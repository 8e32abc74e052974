"""Strategy settings under their old keys are accepted, with a warning that names the new key."""

from __future__ import annotations

import pytest

from med_transfer.config import dump_config, load_config
from med_transfer.errors import ConfigError, UnknownKey
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.strategies import Adapters, Scratch
from med_transfer.finetuning.strategies.by_stage import Auto, Full, GradualUnfreezing, LayerwiseLRDecay, Surgical
from med_transfer.finetuning.strategies.lora import LoRA

WRITTEN = """
transfer:
  strategy: {strategy}
  batch_norm: source
  gradual_unfreezing: {{epochs_per_stage: 1}}
  surgical: {{stages: []}}
  lora: {{rank: 8, alpha: 8.0}}
  adapters: {{reduction: 4}}
training: {{learning_rate: null, stage_decay: null, freeze_stages: 0, freeze_norm_statistics: null}}
"""


def load(*overrides: str) -> FinetuneConfig:
    return load_config(FinetuneConfig, None, overrides)


@pytest.mark.parametrize("strategy", ["linear_probe", "full", "lora", "layerwise_lr_decay"])
def test_a_written_config_with_every_default_is_read_without_a_word(strategy, tmp_path, caplog):
    path = tmp_path / "config.yaml"
    path.write_text(WRITTEN.format(strategy=strategy))
    expected = {"transfer": {"strategy": strategy, "batch_norm": "source"}}
    assert load_config(FinetuneConfig, path) == FinetuneConfig.model_validate(expected)
    assert not caplog.records


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        (("training.learning_rate=2e-4", "training.stage_decay=1"), Auto(learning_rate=2e-4, stage_decay=1)),
        (("training.freeze_stages=2", "transfer.strategy=full"), Full(freeze_stages=2)),
        (("transfer.strategy=lora", "transfer.lora.rank=4", "transfer.lora.alpha=2"), LoRA(rank=4, alpha=2)),
        (("transfer.strategy=adapters", "transfer.adapters.reduction=2"), Adapters(reduction=2)),
        (("transfer.strategy=surgical", "transfer.surgical.stages=[0,1]"), Surgical(stages=(0, 1))),
        (
            ("transfer.strategy=gradual_unfreezing", "transfer.gradual_unfreezing.epochs_per_stage=3"),
            GradualUnfreezing(epochs_per_stage=3),
        ),
    ],
)
def test_an_old_key_is_taken(old, expected, caplog):
    assert load(*old).transfer.strategy == expected
    assert all("is now called transfer.strategy." in record.getMessage() for record in caplog.records)
    assert caplog.records


def test_what_another_strategy_could_be_told_is_dropped_with_a_warning(caplog):
    assert load("transfer.strategy=scratch", "training.stage_decay=0.5").transfer.strategy == Scratch()
    assert load("transfer.strategy=layerwise_lr_decay", "transfer.lora.rank=4").transfer.strategy == LayerwiseLRDecay()
    assert [record.getMessage() for record in caplog.records] == [
        "config key training.stage_decay is without effect with transfer.strategy scratch",
        "config key transfer.lora.rank is without effect with transfer.strategy layerwise_lr_decay",
    ]


def test_kept_statistics_are_what_batch_norm_says():
    assert load("training.freeze_norm_statistics=false").transfer.batch_norm == "train"
    assert load("training.freeze_norm_statistics=true").transfer.batch_norm == "auto"
    assert (
        load("training.freeze_norm_statistics=true", "transfer.batch_norm=bn_adapt").transfer.batch_norm == "bn_adapt"
    )
    with pytest.raises(ConfigError, match="freeze_norm_statistics: false with transfer.batch_norm source"):
        load("training.freeze_norm_statistics=false", "transfer.batch_norm=source")
    with pytest.raises(ConfigError, match="freeze_norm_statistics: true with transfer.batch_norm train"):
        load("training.freeze_norm_statistics=true", "transfer.batch_norm=train")


def test_a_word_is_short_for_the_strategy_of_that_name_in_any_order(tmp_path):
    expected = LoRA(learning_rate=1e-4)
    assert load("transfer.strategy=lora", "transfer.strategy.learning_rate=1e-4").transfer.strategy == expected
    assert load("transfer.strategy.learning_rate=1e-4", "transfer.strategy=lora").transfer.strategy == expected
    dump_config(load("transfer.strategy=full"), tmp_path / "config.yaml")
    again = load_config(FinetuneConfig, tmp_path / "config.yaml", ["transfer.strategy.learning_rate=1e-4"])
    assert again.transfer.strategy == Full(learning_rate=1e-4)


def test_a_setting_that_the_strategy_does_not_have_is_refused_by_name():
    with pytest.raises(UnknownKey, match=r"transfer\.strategy\.rank: no such key with full"):
        load("transfer.strategy=full", "transfer.strategy.rank=4")
    with pytest.raises(
        UnknownKey, match=r"lerning_rate: no such key; expected transfer\.strategy\.learning_rate perhaps"
    ):
        load("transfer.strategy.lerning_rate=1")


def test_another_strategy_over_a_file_keeps_only_the_settings_that_it_has(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("transfer: {strategy: {name: layerwise_lr_decay, learning_rate: 1e-4, stage_decay: 0.5}}\n")
    assert load_config(FinetuneConfig, path, ("transfer.strategy=scratch",)).transfer.strategy == Scratch(
        learning_rate=1e-4
    )
    kept = load_config(FinetuneConfig, path, ("transfer.strategy=lp_ft",)).transfer.strategy
    assert (kept.name, kept.learning_rate, kept.freeze_stages) == ("lp_ft", 1e-4, 0)
    with pytest.raises(UnknownKey, match="stage_decay: no such key with scratch"):
        load_config(FinetuneConfig, path, ("transfer.strategy=scratch", "transfer.strategy.stage_decay=0.5"))
    path.write_text("transfer: {strategy: {name: layerwise_lr_decay, stage_decai: 0.5}}\n")
    with pytest.raises(UnknownKey, match="stage_decai: no such key; expected transfer.strategy.stage_decay perhaps"):
        load_config(FinetuneConfig, path, ("transfer.strategy=scratch",))
