"""The config section ``transfer``, typed and strict: strategy, regularisation, BatchNorm, alignment, mapping.

Combinations that make no sense are refused, with the reason, before anything is read or written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from med_transfer.bundle.record import transfer_words
from med_transfer.config import StrictModel
from med_transfer.errors import ConfigError
from med_transfer.errors.sentence import listed
from med_transfer.finetuning.strategies import AnyStrategy, Scratch
from med_transfer.finetuning.strategies.by_stage import Auto

RegulariserName = Literal["l2_sp", "delta", "bss"]
BatchNormMode = Literal["auto", "source", "bn_adapt", "train"]
Strength = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
InverseStrength = Annotated[float, Field(ge=1e-12, le=1e12)]  # scikit-learn's C, within what its solver can fit


class L2SPConfig(StrictModel):
    """L2-SP (Li et al. 2018): weights are held to the source's.

    Attributes:
        strength: towards the source's weights, as in the paper.
        head_strength: of the new head, and of an attention, towards zero, as in the paper.
    """

    strength: Strength = 0.1
    head_strength: Strength = 0.01


class DeltaConfig(StrictModel):
    """DELTA (Li et al. 2019): feature maps are held to the source's.

    Attributes:
        strength: against the loss on labels.
        attention: weigh each channel of the pooled maps by what its loss costs a linear probe.
    """

    strength: Strength = 1.0
    attention: bool = False


class BSSConfig(StrictModel):
    """Batch spectral shrinkage (Chen et al. 2019): directions in which a batch hardly varies are shrunk.

    Attributes:
        strength: against the loss on labels, as in the paper.
        k: how many of the smallest singular values, as in the paper.
    """

    strength: Strength = 0.001
    k: Annotated[int, Field(ge=1)] = 1


class ProbeConfig(StrictModel):
    """The logistic head of ``linear_probe``, ``lp_ft`` and DELTA's attention.

    Attributes:
        inverse_strengths: scikit-learn's ``C`` to choose from, by folds of the training patients; a tie goes to the
            smallest.
    """

    inverse_strengths: Annotated[tuple[InverseStrength, ...], Field(min_length=1)] = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)


class AlignConfig(StrictModel):
    """Alignment with unlabelled scans while fine-tuning: their features are made to look like the labelled ones'.

    Attributes:
        method: ``mmd`` (Long et al. 2015), ``coral`` (covariances alone, Sun & Saenko 2016) or ``dann`` (an adversarial
            domain classifier, Ganin et al. 2016).
        weight: against the loss on labels.
        unlabelled: a cohort table (labels are not read) or a folder of scans; scans of test patients are not allowed.
    """

    method: Literal["mmd", "coral", "dann"]
    weight: Positive = 1.0
    unlabelled: Path


class MappingConfig(StrictModel):
    """What happens to frozen features before the head of ``linear_probe`` reads them.

    Attributes:
        method: ``autoencoder``: the bottleneck of one fitted on the target's features. ``coral``: labelled features get
            the mean and covariance of the unlabelled scans', for which the network then is (Sun et al. 2016).
        unlabelled: as for alignment; ``coral`` needs it, the autoencoder learns from it too.
        bottleneck, noise, steps: of the autoencoder; noise in standard deviations of each feature.
        ridge: of ``coral``, added to the variances of standardised features.
    """

    method: Literal["autoencoder", "coral"]
    unlabelled: Path | None = None
    bottleneck: Annotated[int, Field(ge=1, le=4096)] = 32
    noise: Annotated[float, Field(ge=0, le=100)] = 0.3
    steps: Annotated[int, Field(ge=1)] = 500
    ridge: Positive = 1.0


class TransferConfig(StrictModel):
    """How the source's network becomes the target's; docs/transfer.md says which one when.

    Attributes:
        strategy: one of med_transfer/finetuning/strategies by its ``name``, with its settings; the name alone will do.
        regularise: penalties that keep the network close to its source (``l2_sp``, ``delta``) or shrink what hardly
            varies (``bss``).
        batch_norm: ``source`` normalises with the source's statistics, ``bn_adapt`` with those of the training scans
            (both stay fixed), ``train`` with each batch's; ``auto`` is ``source``, or ``train`` from scratch.
        align: draw the features of labelled and unlabelled scans together during fine-tuning.
        mapping: map frozen features before a linear probe.
        on_harm: ``report`` keeps the transferred network whatever the verdict; ``fallback`` keeps the one trained from
            scratch if transfer harms on the validation scans. Without a source there is nothing to choose.
    """

    strategy: AnyStrategy = Auto()
    regularise: tuple[RegulariserName, ...] = ()
    batch_norm: BatchNormMode = "auto"
    align: AlignConfig | None = None
    mapping: MappingConfig | None = None
    on_harm: Literal["report", "fallback"] = "report"
    probe: ProbeConfig = ProbeConfig()
    l2_sp: L2SPConfig = L2SPConfig()
    delta: DeltaConfig = DeltaConfig()
    bss: BSSConfig = BSSConfig()

    @model_validator(mode="after")
    def _check_consistency(self) -> TransferConfig:
        reason = _contradiction(self)
        if reason:
            raise ValueError(reason)
        return self

    @property
    def unlabelled(self) -> Path | None:
        """The path of the target's unlabelled scans, for alignment or mapping; None without."""
        return next((part.unlabelled for part in (self.align, self.mapping) if part), None)

    @property
    def bottleneck(self) -> int | None:
        """Number of features in the autoencoder's bottleneck, which the head reads; None without an autoencoder."""
        return self.mapping.bottleneck if self.mapping and self.mapping.method == "autoencoder" else None

    def resolved(self, *, from_source: bool) -> TransferConfig:
        """Copy with every ``auto`` resolved; without a source, settings that preserve one are dropped.

        Raises:
            ConfigError: a setting needs a source and there is none.
        """
        strategy = self.strategy.resolved(from_source=from_source)
        if from_source:
            batch_norm = "source" if self.batch_norm == "auto" else self.batch_norm
            return self.model_copy(update={"strategy": strategy, "batch_norm": batch_norm})
        needs = [] if isinstance(strategy, Scratch) else [self.strategy.name]
        needs += self.regularise + (() if self.batch_norm in ("auto", "train") else (self.batch_norm,))
        if needs:
            by_quick = ", or leave out --quick, which chooses linear_probe" if "linear_probe" in needs else ""
            raise ConfigError(
                f"{', '.join(needs)} with a network that starts from random values: there is nothing to transfer",
                where="transfer",
                expected="strategy auto or scratch",
                action=f"Choose a backbone with weights, or give backbone.weights{by_quick}",
            )
        return self.model_copy(update={"strategy": strategy, "batch_norm": "train", "on_harm": "report"})

    def from_scratch(self) -> TransferConfig:
        """The section for the same network without its source: nothing that needs one, no alignment, no mapping."""
        return TransferConfig(strategy=Scratch(learning_rate=self.strategy.learning_rate), batch_norm="train")

    @property
    def sentence(self) -> str:
        """The section in words."""
        align, mapping = self.align and self.align.method, self.mapping and self.mapping.method
        return listed(*transfer_words(self.strategy.name, self.regularise, self.batch_norm, align, mapping))


def _contradiction(config: TransferConfig) -> str:
    """Why the settings contradict each other; empty if they do not."""
    regularise, mapping = config.regularise, config.mapping
    if len(set(regularise)) < len(regularise):
        return f"regularise names one penalty twice: {', '.join(regularise)}"
    parts = [*regularise, f"batch_norm {config.batch_norm}", f"on_harm {config.on_harm}"]
    parts += [name for name in ("align", "mapping") if getattr(config, name)]
    for part in parts:
        if part in config.strategy.refuses:
            return f"{part} with {config.strategy.name}: {config.strategy.refuses[part]}"
    if mapping and mapping.method == "coral" and mapping.unlabelled is None:
        return "mapping coral without mapping.unlabelled: say which scans the features are to look like"
    if mapping and mapping.method == "coral" and config.on_harm == "fallback":
        return "on_harm fallback with mapping coral: validation scans are not of the site that the network is for"
    return ""
