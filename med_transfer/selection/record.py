"""The result of a selection, as it is returned and as it stands in ``selection.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from med_transfer.config import as_typed
from med_transfer.selection.ranking import RankingCriteria
from med_transfer.selection.weights_check import Agreement

Stages = tuple[int, ...]


@dataclass(frozen=True)
class LayerScore:
    """What the pooled features of some stages tell of the labels, on the training folds.

    Attributes:
        stages: counted from 0, shallow to deep; joined where there are several.
        n_features: length of the joined vector.
        macro_auc, standard_error, balanced_sensitivity: of the cross-validated linear probe.
        knn_macro_auc, knn_balanced_sensitivity: of the cross-validated nearest neighbours.
        log_me, h_score, n_leep, trans_rate: see ``med_transfer.selection.measures``; the H-score with shrinkage. For
            several findings a scan, their mean over the findings.
    """

    stages: Stages
    n_features: int
    macro_auc: float
    standard_error: float
    balanced_sensitivity: float
    knn_macro_auc: float
    knn_balanced_sensitivity: float
    log_me: float
    h_score: float
    n_leep: float
    trans_rate: float

    def criteria(self, name: str, cost: float) -> RankingCriteria:
        """By which it is ranked."""
        return RankingCriteria(name, self.macro_auc, self.standard_error, self.log_me, cost)


@dataclass(frozen=True)
class DomainGap:
    """How far the cohort lies from what a network was trained on; None where that is not known.

    Attributes:
        stages: the layer that was compared; None where nothing is known of the source's features.
        frechet: Frechet distance, in squared units of the features.
        frechet_relative: the same as a share of the source's total variance: comparable between networks.
        mmd_squared, mmd_p_value: maximum mean discrepancy, unbiased, and its permutation test.
        proxy_a_distance: 0 alike, 2 told apart without error.
        batch_norm: agreement with the statistics that the network's normalisation layers remember.
        unknown: what could not be computed, and why; empty when all could.
        other_input: how the source's scans were given to the network, where that is known and is not as these were:
            part of every distance, and of LEEP, is that.
    """

    stages: Stages | None
    frechet: float | None
    frechet_relative: float | None
    mmd_squared: float | None
    mmd_p_value: float | None
    proxy_a_distance: float | None
    batch_norm: Agreement | None
    unknown: str
    other_input: str = ""


@dataclass(frozen=True)
class Cost:
    """What one scan costs.

    Attributes:
        seconds_per_scan: median time of a forward pass of one scan on ``device``, when its features were worked out.
        parameters_mib: memory of the encoder's weights in single precision.
        activations_mib: memory of all its layers' outputs for one scan, which training keeps.
        device: where it was timed.
    """

    seconds_per_scan: float | None
    parameters_mib: float
    activations_mib: float
    device: str


@dataclass(frozen=True)
class BackboneScore:
    """One backbone with its weights, beside the same network with random ones.

    Attributes:
        name: what tells it apart in this selection: the backbone, and the path of weights that were given.
        backbone: its entry.
        weights: path that was given; None for weights found by the backbone's name.
        sha256: of the weights file.
        licence, commercial_use: of the weights.
        best: the layer that the rule of the ranking puts first.
        layers: every layer that was measured.
        random_best, random_layers: the same of the same network with random weights.
        gain: macro AUC of ``best`` minus that of ``random_best``.
        gain_standard_error: of that difference on the same patients.
        leep: LEEP of the source's own classes; None where the source has no head for one class a scan.
        gap: how far the cohort lies from the source.
        cost: of one scan.
    """

    name: str
    backbone: str
    weights: str | None
    sha256: str
    licence: str
    commercial_use: bool
    best: LayerScore
    layers: tuple[LayerScore, ...]
    random_best: LayerScore
    random_layers: tuple[LayerScore, ...]
    gain: float
    gain_standard_error: float
    leep: float | None
    gap: DomainGap
    cost: Cost

    @property
    def beats_random(self) -> bool:
        """Whether its weights are worth something here: a gain of more than its standard error."""
        return self.gain > self.gain_standard_error

    @property
    def may_help(self) -> bool:
        """Whether it does not fall short of its own random weights by more than the standard error."""
        return self.gain > -self.gain_standard_error


@dataclass(frozen=True)
class Selection:
    """Backbones in the order in which they suit a cohort, best first.

    Attributes:
        ranking: see ``docs/selection.md`` for the rule.
        recommended: name of the first that beats its own random weights; None when none does.
        to_try: where none is recommended, name of the one to start from and to let ``--on-harm fallback`` judge; None
            when all fall short of their random weights.
        reason: why, in words.
        left_out: name to the reason why a backbone whose weights are at hand was not measured.
        classes: in the order of the network's outputs.
        multilabel: whether a scan can have several.
        n_scans, n_patients, n_folds: of the training folds, the only ones that were looked at.
        failed: scan to the reason why it could not be used.
        folder: where everything was written.
    """

    ranking: tuple[BackboneScore, ...]
    recommended: str | None
    to_try: str | None
    reason: str
    left_out: Mapping[str, str]
    classes: tuple[str, ...]
    multilabel: bool
    n_scans: int
    n_patients: int
    n_folds: int
    failed: Mapping[str, str]
    folder: Path

    @property
    def choice(self) -> BackboneScore | None:
        """The recommended one, else the one to try."""
        return next((score for score in self.ranking if score.name == (self.recommended or self.to_try)), None)

    @property
    def overrides(self) -> tuple[str, ...]:
        """``--set`` values with which ``finetune`` starts from the choice; empty when there is none.

        The recommended one comes with its best layer. Of the one to try nothing is shown, its layers neither.
        """
        choice = self.choice
        if choice is None:
            return ()
        weights = [f"backbone.weights={as_typed(choice.weights)}"] if choice.weights else []
        layer, fallback = f"backbone.pooled_stages={list(choice.best.stages)}", "transfer.on_harm=fallback"
        how = (layer,) if self.recommended else (fallback, "from_scratch_baseline=true")
        return (f"backbone.name={choice.backbone}", *weights, *how)


def layer_text(stages: Stages) -> str:
    """``3``, or ``2+3``."""
    return "+".join(map(str, stages))
