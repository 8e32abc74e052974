"""A pretraining says which of its settings its method does not read."""

from __future__ import annotations

from pathlib import Path

import pytest

from med_transfer.config import load_config
from med_transfer.errors import ConfigError
from med_transfer.finetuning import FinetuneConfig
from med_transfer.pretraining import PretrainingConfig, SourceScans, pretrain
from med_transfer.pretraining.unread_settings import unread_settings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["painted_lesions.lesions=5"], "painted_lesions without effect: method is masked_autoencoding"),
        (["crops.slab=4"], "crops.slab without effect: crops are shown, and no whole scans"),
        (
            ["method=painted_lesions", "crops.lung=0", "crops.size_mm=[10, 20]"],
            "crops.size_mm, crops.lung without effect: whole scans are shown",
        ),
        (["method=painted_lesions", "views.gamma=0"], "views.gamma without effect: lesions are painted in Hounsfield"),
        (
            ["method=supervised", "supervised.inside=1"],
            "supervised.inside without effect: supervised.target is label",
        ),
        (
            ["method=supervised", "supervised.target=mask", "crops.lung=1"],
            "crops.lung without effect: crops are centred in the table's regions or masks",
        ),
        (
            ["method=contrastive", "contrastive.loss=vicreg", "contrastive.temperature=1"],
            "contrastive.temperature without effect: contrastive.loss is vicreg",
        ),
        (["probe.folds=3"], "probe.folds without effect: there is no probe.cohort"),
    ],
)
def test_a_setting_that_the_method_does_not_read_is_named(settings, said):
    (sentence,) = unread_settings(load_config(PretrainingConfig, None, ["steps=1", *settings]))
    assert sentence.startswith(said)


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["method=painted_lesions", "crops.slab=4", "painted_lesions.lesions=5", "views.blur=0"],
        ["method=supervised", "supervised.region=whole", "crops.slab=4"],
        ["method=distillation", "crops.lung=1", "views.gamma=0", "distillation.stages=2"],
        ["probe.cohort=cohort.csv", "probe.folds=3"],
    ],
)
def test_of_settings_that_are_read_nothing_is_said(settings):
    assert unread_settings(load_config(PretrainingConfig, None, ["steps=1", *settings])) == []


def test_it_is_said_before_anything_is_read(tmp_path: Path, caplog):
    config = load_config(PretrainingConfig, None, ["steps=1", "contrastive.shift=0", "weights=published"])
    with pytest.raises(ConfigError, match="^weights: .*no published weights"):
        pretrain(SourceScans(()), config, tmp_path / "out")
    assert "contrastive without effect: method is masked_autoencoding" in caplog.text


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (PretrainingConfig, ["steps=1", "method=painted_lesions", "painted_lesions.painted=0"]),
        (FinetuneConfig, ["backbone.pretraining.lesions.painted=0"]),
    ],
)
def test_a_pretraining_on_lesions_of_which_none_are_painted_is_refused(kind, settings):
    with pytest.raises(ConfigError, match="painted: found 0; expected a value greater than 0"):
        load_config(kind, None, settings)
