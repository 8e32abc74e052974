"""The result of a selection, as returned and as written to ``selection.json``."""

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
    """How well the pooled features of one or several stages predict the labels, on the training folds.

    Attributes:
        stages: counted from 0, shallow to deep; several are joined.
        n_features: length of the joined vector.
        macro_auc, standard_error, balanced_sensitivity: of the cross-validated linear probe.
        knn_macro_auc, knn_balanced_sensitivity: of the cross-validated nearest neighbours.
        log_me, h_score, n_leep, trans_rate: see ``med_transfer.selection.measures``; the H-score is the regularised
            one. If a scan can have several findings, means over the findings.
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
        """The criteria by which the layer is ranked."""
        return RankingCriteria(name, self.macro_auc, self.standard_error, self.log_me, cost)


@dataclass(frozen=True)
class DomainGap:
    """Distance of the cohort from a network's training data; None where it is unknown.

    Attributes:
        stages: the layer that was compared; None if nothing is known of the source's features.
        frechet: Frechet distance, in squared units of the features.
        frechet_relative: the same as a share of the source's total variance, which is comparable between networks.
        mmd_squared, mmd_p_value: unbiased squared maximum mean discrepancy, and p-value of its permutation test, which
            is None if a patient has several scans.
        proxy_a_distance: from 0 (alike) to 2 (separable without error).
        batch_norm: agreement with the statistics stored in the network's BatchNorm layers.
        unknown: what could not be computed, and why; empty if nothing.
        other_input: how the source's scans were preprocessed, if that is known and differs from this cohort's. The
            difference contributes to every distance and to LEEP.
    """

    stages: Stages | None = None
    frechet: float | None = None
    frechet_relative: float | None = None
    mmd_squared: float | None = None
    mmd_p_value: float | None = None
    proxy_a_distance: float | None = None
    batch_norm: Agreement | None = None
    unknown: str = ""
    other_input: str = ""


@dataclass(frozen=True)
class Cost:
    """Time and memory per scan.

    Attributes:
        seconds_per_scan: median time of one scan's forward pass on ``device``, when its features were computed; None if
            no pass was timed.
        parameters_mib: memory of the encoder's weights in single precision.
        activations_mib: memory of all layers' outputs for one scan, which training keeps.
        device: that the passes were timed on.
    """

    seconds_per_scan: float | None
    parameters_mib: float
    activations_mib: float
    device: str


@dataclass(frozen=True)
class BackboneScore:
    """One backbone with its weights, compared with the same network with random weights.

    Attributes:
        name: unique in this selection: the backbone, with the path of weights if one was given.
        backbone: name of its catalogue entry.
        weights: path that was given; None for weights found by the backbone's name.
        sha256: of the weights file.
        licence, commercial_use: of the weights.
        best: the layer that the ranking rule puts first.
        layers: every layer that was measured.
        random_best, random_layers: the same with random weights.
        gain: macro AUC of ``best`` minus that of ``random_best``.
        gain_standard_error: of that difference on the same patients.
        leep: LEEP of the source's own classes; None if the source has no head with one class per scan.
        gap: distance of the cohort from the source.
        cost: time and memory per scan.
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
    def criteria(self) -> RankingCriteria:
        """The criteria by which the backbone is ranked: those of its best layer, with activations as cost."""
        return self.best.criteria(self.name, self.cost.activations_mib)

    @property
    def beats_random(self) -> bool:
        """Whether its weights are useful here: the gain exceeds its standard error."""
        return self.gain > self.gain_standard_error

    @property
    def may_help(self) -> bool:
        """Whether it falls short of its own random weights by no more than the standard error."""
        return self.gain >= -self.gain_standard_error

    @property
    def gain_in_words(self) -> tuple[str, str]:
        """The gain and its standard error, with as many decimals, up to four, as tell which of them is larger."""
        gain, error = self.gain, self.gain_standard_error
        for decimals in (2, 3, 4):
            shown = round(gain, decimals), round(error, decimals)
            if (shown[0] > shown[1], shown[0] < -shown[1]) == (gain > error, gain < -error):
                break
        return f"{shown[0] + 0.0:+.{decimals}f}", f"{shown[1]:.{decimals}f}"


@dataclass(frozen=True)
class Selection:
    """A ranking of backbones for a cohort, and a recommendation.

    Attributes:
        ranking: best first; see ``docs/selection.md`` for the rule.
        recommended: name of the first that beats its own random weights; None if none does.
        to_try: if none is recommended, name of the one to start from with ``--on-harm fallback``; None if all are
            clearly worse than their random weights.
        reason: why, in words.
        left_out: name to the reason why a backbone with available weights was not measured.
        classes: in the order of the network's outputs.
        multilabel: whether a scan can have several of them.
        n_scans, n_patients, n_folds: of the training folds, the only ones that were used.
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
        """The recommended backbone, else the one to try, else None."""
        return next((score for score in self.ranking if score.name == (self.recommended or self.to_try)), None)

    @property
    def overrides(self) -> tuple[str, ...]:
        """``--set`` values with which ``finetune`` starts from the choice; empty if there is none.

        They include the best layer of a recommended backbone. For one to try there is no evidence for any layer. The
        weights are always among them: the config may name those of another network.
        """
        choice = self.choice
        if choice is None:
            return ()
        layer, fallback = f"backbone.pooled_stages={list(choice.best.stages)}", "transfer.on_harm=fallback"
        how = (layer,) if self.recommended else (fallback, "from_scratch_baseline=true")
        return (f"backbone.name={choice.backbone}", f"backbone.weights={as_typed(choice.weights)}", *how)


def layer_text(stages: Stages) -> str:
    """The stages as text: ``3``, or ``2+3``."""
    return "+".join(map(str, stages))
