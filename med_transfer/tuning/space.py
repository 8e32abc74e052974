"""From the search space to a trial's config: drawing values, and checking that the space can work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pydantic import ValidationError

from med_transfer.backbones import Encoder
from med_transfer.config import set_value
from med_transfer.errors import ConfigError
from med_transfer.errors.validation import first_problem
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.initialisation import check_transfer
from med_transfer.finetuning.strategies import STRATEGIES
from med_transfer.tuning.config import SearchSpace

Values = dict[str, Any]  # a config's dotted keys

_DEFAULT_STRATEGIES = ("linear_probe", "lp_ft", "layerwise_lr_decay", "full", "gradual_unfreezing")
_BY_STAGE = {"layerwise_lr_decay", "gradual_unfreezing"}  # strategies with a stage decay
_WITHOUT_REGULARISATION = {"scratch", "linear_probe", "attention_probe", "lora", "adapters"}
_NONE = "none"


class Draws(Protocol):
    """The part of Optuna's trial interface that is used."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number between the limits, drawn on a logarithmic scale if ``log``."""
        ...


def draw(draws: Draws, space: SearchSpace, strategies: Sequence[str]) -> Values:
    """Draw one point of the space, with only the values that its strategy uses, so that points are not equivalent."""
    strategy = draws.suggest_categorical("transfer.strategy", list(strategies))
    values: Values = {"transfer.strategy": strategy} | _options(draws, space, strategy)
    if not STRATEGIES[strategy].trains:  # fitted on features of plain scans, without these settings
        return values

    def number(key: str, limits: tuple[float, float] | None, *, log: bool = False) -> None:
        if limits is not None:
            values[key] = draws.suggest_float(key, *limits, log=log)

    number("transfer.strategy.learning_rate", space.learning_rate, log=True)
    if strategy in _BY_STAGE:
        number("transfer.strategy.stage_decay", space.stage_decay)
    number("augmentation.strength", space.augmentation_strength)
    number("augmentation.mixup", space.mixup)
    number("training.dropout", space.dropout)
    if "l2_sp" in values.get("transfer.regularise", ()):
        number("transfer.l2_sp.strength", space.l2_sp_strength, log=True)
    return values


def _options(draws: Draws, space: SearchSpace, strategy: str) -> Values:
    """Draw the strategy's own options, and the penalties that suit it."""
    values: Values = {}
    choices = {
        "lora": ("transfer.strategy.rank", space.lora_rank),
        "adapters": ("transfer.strategy.reduction", space.adapter_reduction),
        "gradual_unfreezing": ("transfer.strategy.epochs_per_stage", space.epochs_per_stage),
    }
    key, options = choices.get(strategy, ("", ()))
    if options:
        values[key] = draws.suggest_categorical(key, list(options))
    if strategy == "surgical" and space.surgical_stages:
        named = {" ".join(map(str, stages)): stages for stages in space.surgical_stages}
        values["transfer.strategy.stages"] = named[draws.suggest_categorical("transfer.strategy.stages", list(named))]
    if space.regularise and strategy in _WITHOUT_REGULARISATION:
        values["transfer.regularise"] = ()
    elif space.regularise:
        named = {" ".join(penalties) or _NONE: penalties for penalties in space.regularise}
        values["transfer.regularise"] = named[draws.suggest_categorical("transfer.regularise", list(named))]
    return values


def applied(base: FinetuneConfig, values: Mapping[str, Any]) -> FinetuneConfig:
    """The base config with these values. Raises ConfigError if they contradict each other.

    A strategy other than the base's keeps the settings that both share.
    """
    record, settings = base.model_dump(), base.transfer.strategy.model_dump(exclude_defaults=True)
    strategy = STRATEGIES[values.get("transfer.strategy", base.transfer.strategy.name)]
    record["transfer"]["strategy"] = {key: value for key, value in settings.items() if key in strategy.model_fields}
    for key, value in {"transfer.strategy": base.transfer.strategy.name, **values}.items():
        set_value(record, "transfer.strategy.name" if key == "transfer.strategy" else key, value)
    try:
        return FinetuneConfig.model_validate(record)
    except ValidationError as error:
        found, key = first_problem(error)
        where = f"tuning.space, {key or values.get('transfer.strategy', '')}"
        raise ConfigError(found, where=where) from None


def usable_strategies(space: SearchSpace, base: FinetuneConfig, encoder: Encoder, *, from_source: bool) -> list[str]:
    """The strategies to draw from, after checking the limits of the space against config and backbone.

    Raises:
        ConfigError: a strategy that is named in the space, or a limit, cannot work.
    """
    if space.strategies is None and not from_source:
        _check_limits(space, "scratch", base, encoder, from_source=False)
        return ["scratch"]
    if from_source and "scratch" in (space.strategies or ()):
        raise ConfigError(
            "scratch among the strategies of a config with a source",
            where="tuning.space.strategies",
            expected="strategies that transfer; finetune trains the network from scratch beside them",
            action="Tune it without backbone.weights, in another folder",
        )
    fits = []
    for strategy in space.strategies or _DEFAULT_STRATEGIES:
        try:
            applied(base, {"transfer.strategy": strategy} | _overriding_values(space, strategy))
        except ConfigError:
            if space.strategies is None:
                continue  # a default strategy that the config rules out
            raise
        _check_limits(space, strategy, base, encoder, from_source=from_source)
        fits.append(strategy)
    if not fits:
        raise ConfigError("no strategy goes with this config", where="tuning.space.strategies", expected="at least one")
    return fits


def _overriding_values(space: SearchSpace, strategy: str) -> Values:
    """Values that the space sets anyway, so that the base's values do not rule out the strategy."""
    values: Values = {"transfer.regularise": ()} if space.regularise else {}
    if strategy == "surgical" and space.surgical_stages:
        values["transfer.strategy.stages"] = space.surgical_stages[0]
    if strategy in _BY_STAGE and space.stage_decay:
        values["transfer.strategy.stage_decay"] = space.stage_decay[0]
    return values


def _check_limits(
    space: SearchSpace, strategy: str, base: FinetuneConfig, encoder: Encoder, *, from_source: bool
) -> None:
    n_choices = max(len(space.surgical_stages), len(space.regularise), 2)
    for position in range(n_choices):
        config = applied(base, draw(_LimitDraws(position), space, [strategy]))
        check_transfer(config.resolved(from_source=from_source), encoder)


class _LimitDraws:
    """Draws the lower limits and first choices (position 0), or the upper limits and later choices."""

    def __init__(self, position: int) -> None:
        self.position = position

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return choices[min(self.position, len(choices) - 1)]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return high if self.position else low
