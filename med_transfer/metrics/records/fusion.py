"""Records of the fusion in metrics.json: performance of each model, and the contribution of each part."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from med_transfer.errors.sentence import Text
from med_transfer.metrics.records.estimate import Estimate, Record


class FusionModel(Record):
    """Performance of one model on the scans that could be fused; ``sensitivity`` is by class."""

    macro_auc: Estimate
    balanced_accuracy: Estimate
    sensitivity: dict[str, Estimate]


class FusionDifference(Record):
    """The fused model minus another one, paired by patient."""

    macro_auc: Estimate
    balanced_accuracy: Estimate


class FusionMetrics(Record):
    """The ``fusion`` section. All results in it are of the scans that could be fused.

    Attributes:
        use: the parts that are fused.
        columns: the clinical columns among them.
        report: whether the rest of the file reports the network (``image``) or the ``fused`` model.
        n_scans, n_patients: scans and patients that could be fused.
        not_fused: number of scans that could not, by reason.
        method: ``mean`` of the network and a model of the other parts, or one ``stacked`` model.
        n_fitted, n_fitted_patients: scans and patients that the fused model, or the one beside the network, was fitted
            on.
        inverse_penalty: inverse regularisation strength of the fused model.
        models: ``image-only``, ``handcrafted-only``, ``columns-only``, ``fused``.
        fused_minus: the fused model minus each of the others.
        contributions: by part, the loss without it: the fused model minus the model of the other parts.
        warnings: columns that may reveal the label or identify the patient.
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
