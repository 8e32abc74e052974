"""Strategies that train or freeze whole stages: all, none, some, or more and more of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from med_transfer.backbones import Encoder
from med_transfer.errors import ConfigError
from med_transfer.finetuning.strategies.strategy import DecayingRates, Strategy

_NO_SOURCE = "there is no source to stay near"
_NO_STATISTICS = "there are no source statistics"
_FROZEN = "its features are frozen, there is nothing to regularise"
Stage = Annotated[int, Field(ge=0)]


class Scratch(Strategy):
    """No transfer: everything learns from random values at one, higher rate. BatchNorm learns its own statistics."""

    name: Literal["scratch"] = "scratch"
    default_rate: ClassVar[float] = 1e-3
    refuses: ClassVar[dict[str, str]] = {
        **Strategy.refuses,
        "l2_sp": _NO_SOURCE,
        "delta": _NO_SOURCE,
        "bss": _NO_SOURCE,
        "batch_norm source": _NO_STATISTICS,
        "batch_norm bn_adapt": _NO_STATISTICS,
        "on_harm fallback": "nothing is transferred, so nothing can harm",
    }


class Frozen(Strategy):
    """Base class: the encoder and its statistics are frozen, so that features of plain scans are computed only once.

    Only the from-scratch baseline has a learning rate.
    """

    trains: ClassVar[bool] = False
    refuses: ClassVar[dict[str, str]] = {
        "l2_sp": _FROZEN,
        "delta": _FROZEN,
        "bss": _FROZEN,
        "batch_norm train": "its features are computed once and never in training",
        "align": "its features are frozen and cannot be aligned; mapping can be used",
    }

    def learning_stages(self, epoch: int, n_stages: int) -> Collection[int]:
        """None: only the head is fitted."""
        return ()


class LinearProbe(Frozen):
    """Frozen features and a logistic regression: the cheapest transfer, and the hardest to over-fit.

    The head is scikit-learn's, see model/linear_head.py.
    """

    name: Literal["linear_probe"] = "linear_probe"
    head_from_probe: ClassVar[bool] = True


class AttentionProbe(Frozen):
    """Frozen features of slices or tiles; attention over them and a linear head learn, see ``attention_probe.py``.

    Of a network of slices or tiles with ``backbone.instance_pooling=attention``. Source: Ilse et al. 2018,
    arXiv:1802.04712, on frozen features as in Lu et al. 2021, Nat Biomed Eng 5:555 (CLAM).

    Attributes:
        steps: maximum number of gradient descent steps; the number is chosen by cross-validation of the training
            patients.
    """

    name: Literal["attention_probe"] = "attention_probe"
    steps: Annotated[int, Field(ge=1)] = 100
    refuses: ClassVar[dict[str, str]] = {
        **Frozen.refuses,
        "mapping": "it reads the features of each slice or tile, and a mapping those of the scan",
        "align": "its features are frozen and cannot be aligned",
    }

    def check(self, encoder: Encoder) -> None:
        """Refuse an encoder without attention. Raises ConfigError."""
        if getattr(encoder, "attention", None) is None:
            raise ConfigError(
                "attention_probe for a network that has no attention",
                where="transfer.strategy",
                expected="slices-... or tiles-... with backbone.instance_pooling=attention",
            )


class FreezableStages(DecayingRates):
    """Base class: every stage learns from the first step, except for the first ``freeze_stages`` stages.

    BatchNorm: scale and shift learn, statistics follow ``transfer.batch_norm``; a frozen stage keeps its own.

    Attributes:
        freeze_stages: number of stages, from the input, that stay frozen.
    """

    freeze_stages: Stage = 0

    def learning_stages(self, epoch: int, n_stages: int) -> Collection[int]:
        """All but the first ``freeze_stages``."""
        return range(self.freeze_stages, n_stages)

    def check(self, encoder: Encoder) -> None:
        """Refuse to freeze more stages than there are. Raises ConfigError."""
        n_stages = len(encoder.stages())
        if self.freeze_stages > n_stages:
            raise ConfigError(
                f"{self.freeze_stages} stages to freeze",
                where="transfer.strategy.freeze_stages",
                expected=f"at most {n_stages}",
            )


class Full(FreezableStages):
    """Every stage and the head learn from the first step, at the same rate unless ``stage_decay`` is set."""

    name: Literal["full"] = "full"


class LayerwiseLRDecay(FreezableStages):
    """As ``full``, but each stage at a share of the next deeper one's rate; a share of 1 is ``full``.

    Source: discriminative fine-tuning, Howard & Ruder 2018, arXiv:1801.06146.
    """

    name: Literal["layerwise_lr_decay"] = "layerwise_lr_decay"
    stage_decay: Annotated[float, Field(gt=0, lt=1)] = 0.7


class ProbeThenFinetune(FreezableStages):
    """As ``full``, but the head starts from the linear probe's, so that its first, large errors distort no feature.

    Source: Kumar et al. 2022, ICLR, arXiv:2202.10054.
    """

    name: Literal["lp_ft"] = "lp_ft"
    head_from_probe: ClassVar[bool] = True


class GradualUnfreezing(FreezableStages):
    """In the first ``epochs_per_stage`` epochs only the head learns; then the next deeper stage joins, to the stem.

    Earlier stages also learn slower, as in the paper. Source: Howard & Ruder 2018, arXiv:1801.06146.

    Attributes:
        epochs_per_stage: number of epochs after which the next stage, from the deepest to the stem, is unfrozen.
    """

    name: Literal["gradual_unfreezing"] = "gradual_unfreezing"
    stage_decay: Annotated[float, Field(gt=0, le=1)] = 0.7
    epochs_per_stage: Annotated[int, Field(ge=1)] = 1

    def learning_stages(self, epoch: int, n_stages: int) -> Collection[int]:
        """One more stage every ``epochs_per_stage`` epochs, starting with the deepest."""
        return range(max(self.freeze_stages, n_stages - epoch // self.epochs_per_stage), n_stages)

    def warnings(self, encoder: Encoder, epochs: int) -> list[str]:
        """A warning if training ends before every stage has learned."""
        n_stages, pace = len(encoder.stages()), self.epochs_per_stage
        learning, unfrozen = len(self.learning_stages(epochs - 1, n_stages)), n_stages - self.freeze_stages
        if learning == unfrozen:
            return []
        reached = (
            f"only the deepest {learning} of {n_stages} stages ever learn" if learning else "only the head ever learns"
        )
        needed = unfrozen * pace + 1
        return [
            f"gradual_unfreezing, {pace} epochs a stage: in {epochs} epochs {reached}; all stages need {needed} epochs"
        ]


class Surgical(DecayingRates):
    """Only chosen stages and the head learn.

    The first stages where scans look different (scanner, kernel, contrast), the last where the question differs.
    BatchNorm: a frozen stage keeps its statistics, a learning one does as ``transfer.batch_norm`` says.
    Source: surgical fine-tuning, Lee et al. 2023, ICLR, arXiv:2210.11466.

    Attributes:
        stages: that learn, counted from the input; 0 is the stem.
    """

    name: Literal["surgical"] = "surgical"
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    def learning_stages(self, epoch: int, n_stages: int) -> Collection[int]:
        """The stages named in the config."""
        return self.stages

    def check(self, encoder: Encoder) -> None:
        """Refuse a stage that the encoder does not have. Raises ConfigError."""
        n_stages = len(encoder.stages())
        if any(stage >= n_stages for stage in self.stages):
            raise ConfigError(
                f"stages {list(self.stages)}",
                where="transfer.strategy.stages",
                expected=f"numbers from 0 to {n_stages - 1}",
            )


class Auto(Strategy):
    """``layerwise_lr_decay`` from a source (``full`` where ``stage_decay`` is 1) and ``scratch`` without one.

    Attributes:
        stage_decay, freeze_stages: of what it becomes; they hold a source back, and a network from scratch has neither.
    """

    name: Literal["auto"] = "auto"
    stage_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    freeze_stages: Stage = 0

    def resolved(self, *, from_source: bool) -> Strategy:
        """The strategy that ``auto`` stands for."""
        if not from_source:
            return Scratch(learning_rate=self.learning_rate)
        kind = Full if self.stage_decay == 1 else LayerwiseLRDecay
        return kind.model_validate(self.model_dump(exclude={"name"}, exclude_none=True))
