"""Settings of a config that a run does not read, so that nobody waits for their effect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter

from med_transfer.backbones import Encoder
from med_transfer.cohorts import Cohort, SplitConfig
from med_transfer.cohorts.splits import TEST_FRACTION
from med_transfer.config import changed_keys
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.transfer_config import MappingConfig
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.preprocessing.config import InputConfig

_SWITCHES = {  # settings, and the choice without which they have no effect
    "training.ema_decay": ("training.averaging", "ema"),
    "training.swa_start": ("training.averaging", "swa"),
    "transfer.l2_sp": ("transfer.regularise", "l2_sp"),
    "transfer.delta": ("transfer.regularise", "delta"),
    "transfer.bss": ("transfer.regularise", "bss"),
    "backbone.pretraining": ("backbone.pretrain", "painted_lesions"),
    "split.folds": ("split.kind", "kfold"),
}
_OF_MAPPINGS = {"autoencoder": ("bottleneck", "noise", "steps"), "coral": ("ridge",)}
_OF_TRAINING = (  # read in no other place than the training of a network by gradients
    "training.epochs",
    "training.epoch_scans",
    "training.weight_decay",
    "training.warmup_epochs",
    "training.gradient_clip",
    "training.label_smoothing",
    "training.smoothing",
    "training.patience",
    "augmentation.strength",
    "augmentation.mixup",
)
_OF_NORMALISATION = {"window_hu": "window", "clip_sd": "zscore"}


def ignored_settings(asked: FinetuneConfig, config: FinetuneConfig, encoder: Encoder) -> list[str]:
    """Sentences on settings that have no effect in this run; ``config`` is ``asked``, resolved."""
    strategy = config.transfer.strategy
    dropped = ["transfer.on_harm"] if asked.transfer.on_harm != config.transfer.on_harm else []
    asked_settings = asked.transfer.strategy.model_dump(exclude={"name"}, exclude_defaults=True)
    dropped += [f"transfer.strategy.{name}" for name in asked_settings if name not in type(strategy).model_fields]
    ignored = [f"{', '.join(dropped)} without effect: the network starts from random values"] if dropped else []
    ignored += _settings_without_effect(asked) + _settings_not_read(config)
    return ignored + strategy.warnings(encoder, config.training.epochs)


def _settings_without_effect(config: FinetuneConfig) -> list[str]:
    """Sentences on settings that differ from the default, of parts that another key would have to switch on."""
    ignored = []
    for key in changed_keys(config, FinetuneConfig(), _SWITCHES):
        switch, part = _SWITCHES[key]
        chosen = attrgetter(switch)(config)
        is_on = part in chosen if isinstance(chosen, tuple) else part == chosen
        if not is_on:
            ignored.append(f"{key} without effect: it is of {switch}={part}, which is not set")
    return ignored


def _settings_not_read(config: FinetuneConfig) -> list[str]:
    """Sentences on settings that differ from the default, and that the resolved strategy does not read."""
    transfer, strategy = config.transfer, config.transfer.strategy
    fits_probe = strategy.head_from_probe or ("delta" in transfer.regularise and transfer.delta.attention)
    frozen = not strategy.trains
    unread: list[tuple[Sequence[str], str]] = (
        [] if fits_probe else [(["transfer.probe"], f"{strategy.name} fits no logistic regression")]
    )
    if not fits_probe and not frozen:
        unread.append((["backbone.runtime"], "a network in training is computed by torch"))
    if frozen and not config.from_scratch_baseline:
        unread.append((_OF_TRAINING, f"{strategy.name} trains a head only, and there is no from-scratch baseline"))
    elif config.training.averaging == "swa":
        unread.append((["training.patience"], "training.averaging=swa trains for all epochs"))
    default = FinetuneConfig()
    found = [(changed_keys(config, default, keys), why) for keys, why in unread]
    found.append(_mapping_settings_not_read(transfer.mapping))
    return [f"{', '.join(keys)} without effect: {why}" for keys, why in found if keys]


def _mapping_settings_not_read(mapping: MappingConfig | None) -> tuple[list[str], str]:
    """Settings of the method that was not chosen, and the reason."""
    if mapping is None:
        return [], ""
    others = [name for method, names in _OF_MAPPINGS.items() if method != mapping.method for name in names]
    changed = [name for name in others if getattr(mapping, name) != MappingConfig.model_fields[name].default]
    return [f"transfer.mapping.{name}" for name in changed], f"transfer.mapping.method is {mapping.method}"


def ignored_input_settings(asked: InputConfig, preprocessing: PreprocessingConfig) -> list[str]:
    """Sentences on settings of a normalisation that the channels, as resolved, do not have."""
    by_channel = [channel.normalisation for channel in preprocessing.by_channel]
    ignored = []
    for key, normalisation in _OF_NORMALISATION.items():
        own = [getattr(channel, key, None) is not None for channel in asked.channels] or [False]
        inheriting = [kind for kind, has_own in zip(by_channel, own, strict=True) if not has_own]
        keys = [f"input.{key}"] if getattr(asked, key) is not None and normalisation not in inheriting else []
        keys += [
            f"input.channels.{number}.{key}"
            for number, (kind, has_own) in enumerate(zip(by_channel, own, strict=True))
            if has_own and kind != normalisation
        ]
        ignored += [f"{name} without effect: it is of normalisation={normalisation}, which is not set" for name in keys]
    return ignored


def ignored_split_settings(config: SplitConfig, cohort: Cohort) -> list[str]:
    """Sentences on settings of the split that the table's split column, or the kind of split, leaves unread."""
    return [f"{keys} without effect: {why}" for keys, why in _unread_of_split(config, cohort)]


def _unread_of_split(config: SplitConfig, cohort: Cohort) -> Iterator[tuple[str, str]]:
    default, column = SplitConfig(), {case.split for case in cohort.cases}
    has_test = "test" in column or bool(config.test_fraction and column == {""})
    if "test" in column and config.test_fraction not in (None, 0, TEST_FRACTION):  # 0 may have been chosen by the table
        yield "split.test_fraction", "the table's split column says which scans are the test"
    if "val" in column and config.kind == "kfold" and config.folds != default.folds:
        yield "split.folds", "the table's split column says which scans are for validation"
    if config.val_fraction != default.val_fraction and has_test:  # without a test part it is of early stopping
        if "val" in column:
            yield "split.val_fraction", "the table's split column says which scans are for validation"
        elif config.kind == "kfold":
            yield "split.val_fraction", "it is of split.kind=holdout, which is not set"
