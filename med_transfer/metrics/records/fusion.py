"""What metrics.json says of the fusion: every model and the others, and what each part adds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from med_transfer.errors.sentence import Text
from med_transfer.metrics.records.estimate import Estimate, Record


class FusionModel(Record):
    """One model on the scans that could be fused; ``sensitivity`` by class."""

    macro_auc: Estimate
    balanced_accuracy: Estimate
    sensitivity: dict[str, Estimate]


class FusionDifference(Record):
    """The fused model minus another one, paired by patient."""

    macro_auc: Estimate
    balanced_accuracy: Estimate


class FusionMetrics(Record):
    """The ``fusion`` section. Everything in it is of the same scans: those that could be fused.

    Attributes:
        use: the parts.
        columns: the clinical columns among them.
        report: whose figures the rest of the file holds: the network's (``image``) or the ``fused`` model's.
        n_scans, n_patients: that could be fused.
        not_fused: reason to number of scans.
        method: ``mean`` of the network and a model of the other parts, or one ``stacked`` model.
        n_fitted, n_fitted_patients: scans that the model next to the network, or the stacked one, was fitted on.
        inverse_penalty: of the fused model.
        models: ``image-only``, ``handcrafted-only``, ``columns-only``, ``fused``.
        fused_minus: the fused model minus each of the others.
        contributions: part to what is lost without it: the fused model minus the one on the other parts.
        warnings: columns that may give the answer, or the patient, away.
    """

    use: list[str]
    columns: list[str]
    method: Literal["mean", "stacked"] = "stacked"
    report: Literal["image", "fused"]
    n_scans: int
    n_patients: int
    not_fused: dict[Text, int] = Field(default_factory=dict)
    n_fitted: int
    n_fitted_patients: int
    inverse_penalty: float
    models: dict[str, FusionModel] = Field(default_factory=dict)
    fused_minus: dict[str, FusionDifference] = Field(default_factory=dict)
    contributions: dict[str, FusionDifference] = Field(default_factory=dict)
    warnings: list[Text] = Field(default_factory=list)
