"""The config of a search, typed and strict: the config of ``finetune`` with a section ``tuning``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from med_transfer.config import Seed, StrictModel
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.strategies import STRATEGIES
from med_transfer.finetuning.transfer_config import RegulariserName

Objective = Literal["balanced_sensitivity", "macro_auc"]


def _in_order(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"the lower limit first, not {list(limits)}")
    return limits


Range = Annotated[tuple[float, float], AfterValidator(_in_order)]
PositiveRange = Annotated[tuple[Annotated[float, Field(gt=0)], float], AfterValidator(_in_order)]
Whole = Annotated[int, Field(ge=1)]


def _known(strategy: str) -> str:
    if strategy not in STRATEGIES:
        raise ValueError(f"one of {', '.join(STRATEGIES)}")
    return strategy


StrategyName = Annotated[str, AfterValidator(_known)]


class SearchSpace(StrictModel):
    """What a trial may choose. A part set to null, or a list to [], is not searched and stays as the config has it.

    Attributes:
        strategies: of ``transfer.strategy``; None takes ``linear_probe``, ``lp_ft``, ``layerwise_lr_decay``, ``full``
            and ``gradual_unfreezing`` as far as the config allows them, or ``scratch`` where there is no source.
        learning_rate: limits of ``transfer.strategy.learning_rate``, searched by its logarithm.
        stage_decay: limits of ``transfer.strategy.stage_decay``, of ``layerwise_lr_decay`` and ``gradual_unfreezing``.
        augmentation_strength: limits of ``augmentation.strength``.
        mixup: limits of ``augmentation.mixup``.
        dropout: limits of ``training.dropout``.
        regularise: sets of penalties, [] for none; not for a probe, adapters and LoRA, which have none then.
        l2_sp_strength: limits, by logarithm, where ``l2_sp`` was chosen.
        lora_rank, adapter_reduction, epochs_per_stage, surgical_stages: options of the strategy they belong to.
    """

    strategies: Annotated[tuple[StrategyName, ...], Field(min_length=1)] | None = None
    learning_rate: PositiveRange | None = (3e-5, 3e-3)
    stage_decay: PositiveRange | None = (0.5, 0.95)
    augmentation_strength: Range | None = (0.0, 2.0)
    mixup: Range | None = (0.0, 0.4)
    dropout: Range | None = (0.0, 0.6)
    regularise: tuple[tuple[RegulariserName, ...], ...] = ((), ("l2_sp",))
    l2_sp_strength: PositiveRange | None = (0.01, 1.0)
    lora_rank: tuple[Whole, ...] = (4, 8, 16)
    adapter_reduction: tuple[Whole, ...] = (2, 4, 8)
    epochs_per_stage: tuple[Whole, ...] = (1, 2, 3)
    surgical_stages: tuple[tuple[Annotated[int, Field(ge=0)], ...], ...] = ()

    @model_validator(mode="after")
    def _strategies_by_name(self) -> SearchSpace:
        if "auto" in (self.strategies or ()):
            raise ValueError("strategies holds auto, which is another strategy's name: write that one")
        return self


class TuningConfig(StrictModel):
    """How it is searched.

    Attributes:
        objective: mean over the inner folds of this validation figure, smoothed over epochs as early stopping sees it,
            at the epoch that was kept; None takes ``training.monitor``. It becomes ``training.monitor`` of every trial.
        folds: only the first so many of the development folds, to save time; None: all.
        startup_trials: drawn evenly from the space before the sampler (TPE, Bergstra et al. 2011) learns from results.
        pruning: stop a trial whose figure is below the median of the earlier ones at the same epoch of the same fold.
        prune_after_trials: complete ones before the first is stopped.
        prune_after_epochs: of the first fold, before a trial can be stopped.
        seed: of the sampler; a trial's draw depends on it, on the trial's number and on the results before it.
    """

    space: SearchSpace = SearchSpace()
    objective: Objective | None = None
    folds: Whole | None = None
    startup_trials: Annotated[int, Field(ge=0)] = 8
    pruning: bool = True
    prune_after_trials: Whole = 4
    prune_after_epochs: Annotated[int, Field(ge=0)] = 5
    seed: Seed = 0


class TuneConfig(FinetuneConfig):
    """A config of ``finetune``, which is the default that trial 0 tries, and how to search for a better one."""

    searches: ClassVar[bool] = True

    tuning: TuningConfig = TuningConfig()

    @model_validator(mode="after")
    def _has_objective(self) -> TuneConfig:
        if self.tuning.objective is None and self.training.monitor == "loss":
            raise ValueError(
                "training.monitor loss without tuning.objective: losses of differently regularised trials do not"
                " compare; set tuning.objective to balanced_sensitivity or macro_auc"
            )
        return self

    @property
    def objective(self) -> str:
        """The figure that the search maximises; every trial also uses it for early stopping."""
        return self.tuning.objective or self.training.monitor

    @property
    def base(self) -> FinetuneConfig:
        """The default config, as given, but with the objective as the monitored figure."""
        record = self.model_dump(exclude={"tuning"})
        record["training"]["monitor"] = self.objective
        return FinetuneConfig.model_validate(record)
