"""metrics.json: all measures of an evaluation in machine-readable form."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, ValidationError

from med_transfer.atomic import write_text
from med_transfer.errors import UsageError
from med_transfer.errors.sentence import Sentence, Text
from med_transfer.errors.validation import first_problem
from med_transfer.metrics.config import EvaluationConfig
from med_transfer.metrics.records.calibration import Calibration
from med_transfer.metrics.records.class_metrics import ClassMetrics
from med_transfer.metrics.records.decision_curve import DecisionCurve
from med_transfer.metrics.records.decisions import AccessCounts, ChosenPoint
from med_transfer.metrics.records.domain import Domain, Overlap
from med_transfer.metrics.records.estimate import Estimate, Record
from med_transfer.metrics.records.fusion import FusionMetrics
from med_transfer.metrics.records.prediction_sets import SetMetrics
from med_transfer.metrics.records.shortcuts import Shortcuts
from med_transfer.metrics.records.subgroups import Subgroup, SubgroupTest
from med_transfer.model.operating_point import OperatingPoint

SCHEMA_VERSION = "1"


class AbstentionPoint(Record):
    """Performance if only the most certain scans are called.

    Attributes:
        share: share of the test scans that are called.
        n_scans: number of scans that are called.
        certainty: certainty of the least certain of them, see ``abstention.certainty``.
        called: by class, the share of its scans that are called; None if it has none.
        sensitivity: by class, among the called scans.
        balanced_accuracy: among the called scans.
        absent: classes that this mean is without, because it is undefined for them among the called scans.
    """

    share: float
    n_scans: int
    certainty: float
    called: dict[str, float | None]
    sensitivity: dict[str, Estimate]
    balanced_accuracy: Estimate
    absent: list[str] = Field(default_factory=list)


class BaselineMetrics(Record):
    """Performance of a baseline on the same scans.

    Attributes:
        sensitivity: by class.
        macro_auc_gain, balanced_accuracy_gain: the network minus this baseline, paired.
    """

    balanced_accuracy: Estimate
    macro_auc: Estimate
    brier: Estimate
    sensitivity: dict[str, Estimate]
    macro_auc_gain: Estimate
    balanced_accuracy_gain: Estimate


MIN_PATIENTS_OF_GAIN = 7  # of six pairs that all point one way, an exact sign test gives p = 0.03, above 2.5 %


class TransferGain(Record):
    """Gain of pretraining over the same network trained from scratch with an equal budget, in the first repeat alone.

    Attributes:
        balanced_sensitivity, macro_auc: transferred minus scratch, paired.
        verdict: ``gain``, ``none`` (neither shown) or ``harm`` (negative transfer).
    """

    balanced_sensitivity: Estimate
    macro_auc: Estimate
    verdict: Literal["gain", "none", "harm"]
    n_patients: int
    method: Text

    @property
    def sides(self) -> tuple[int, int]:
        """Sides of 0 (+1, -1, or 0 if it holds 0) of the 95 % intervals of macro AUC and balanced accuracy."""
        return self.macro_auc.excludes_zero, self.balanced_sensitivity.excludes_zero


class KeptNetwork(Record):
    """Which of the two networks the bundle holds; all other measures are of this network.

    Attributes:
        network: the ``transferred`` network or the one from ``scratch``.
        rule: what to do on harm, as set before the run: ``report`` or ``fallback``.
        validation: transferred minus scratch on validation scans, on which alone the choice is based; None if not
            compared.
        sentence: the choice in words.
    """

    renamed_keys: ClassVar[dict[str, str]] = {"kept": "network"}

    network: Literal["transferred", "scratch"]
    rule: Literal["report", "fallback"]
    validation: TransferGain | None = None
    sentence: Text

    @property
    def fell_back(self) -> bool:
        """Whether the network from scratch replaced the transferred one."""
        return self.network == "scratch" and self.validation is not None


class Repeats(Record):
    """Repeated cross-validation: measures of each repeat's predictions alone.

    Attributes:
        macro_auc, balanced_accuracy: one value per repeat; None if undefined. Their spread reflects the random division
            into folds, not the sampling of patients.
    """

    n: int
    macro_auc: list[float | None]
    balanced_accuracy: list[float | None]


class GeneralisationGap(Record):
    """How much better the networks perform on training than on validation scans; a sign of overfitting.

    Both are measured at the selected epoch, without augmentation, over all ensemble members. The epoch was selected on
    the validation scans, so the gap is underestimated rather than overestimated.

    Attributes:
        training_sensitivity, validation_sensitivity: balanced accuracy; None if undefined.
        training_loss, validation_loss: cross-entropy before calibration.
        limit: difference in balanced accuracy above which the gap is ``exceeded``.
    """

    training_sensitivity: float | None
    validation_sensitivity: float | None
    training_loss: float
    validation_loss: float
    limit: float

    @property
    def difference(self) -> float | None:
        """Training minus validation balanced accuracy."""
        if self.training_sensitivity is None or self.validation_sensitivity is None:
            return None
        return self.training_sensitivity - self.validation_sensitivity

    @property
    def exceeded(self) -> bool:
        """Whether the difference is known and above the limit."""
        return self.difference is not None and self.difference > self.limit

    @property
    def sentence(self) -> str:
        """The gap in words and numbers."""
        if self.training_sensitivity is None or self.validation_sensitivity is None or self.difference is None:
            return Sentence("the gap between training and validation is undefined")
        gap = Sentence(
            "balanced accuracy {training:.2f} on training and {validation:.2f} on validation scans, a gap of "
            "{gap:+.2f} (limit {limit:.2f}); loss {training_loss:.2f} and {validation_loss:.2f}",
            training=self.training_sensitivity,
            validation=self.validation_sensitivity,
            gap=self.difference,
            limit=self.limit,
            training_loss=self.training_loss,
            validation_loss=self.validation_loss,
        )
        if not self.exceeded:
            return gap
        return Sentence("{gap}: the networks have memorised their training scans", gap=gap)


class Failed(Record):
    """Scans without a prediction; no rate of this file includes them.

    Attributes:
        reasons: number of scans by reason (what was found, what was expected and what to do).
    """

    n: int = 0
    reasons: dict[Text, int] = Field(default_factory=dict)

    @property
    def found(self) -> dict[str, int]:
        """Number of scans by what was found wrong, most frequent first; by full reason if read from a file."""
        counted: Counter[str] = Counter()
        for reason, n in self.reasons.items():
            counted[reason.values["found"] if isinstance(reason, Sentence) else reason] += n
        return dict(counted.most_common())


class Bootstrap(Record):
    """Settings that reproduce the resampled intervals."""

    n_boot: int = 2000
    seed: int = 0


class Abstained(Record):
    """Predictions that abstain because the scan is out-of-distribution or outside the input envelope.

    All other measures include these scans.

    Attributes:
        n: number of scans on which the prediction abstains.
        above: novelty above which a prediction abstains.
        reasons: number of scans by reason code, ``novelty`` or ``outside_<fact>``; a scan may have several.
        balanced_accuracy: of the scans on which the prediction does not abstain.
        absent: classes that this mean is without, because it is undefined for them among these scans.
    """

    n: int
    above: float
    balanced_accuracy: Estimate
    reasons: dict[str, int] = Field(default_factory=dict)
    absent: list[str] = Field(default_factory=list)


class Metrics(Record):
    """Content of metrics.json.

    Attributes:
        schema_version: ``schema`` in the file.
        labels: class names in the order of the confusion matrix.
        evaluation: interval method of the rates, and stated prevalences.
        n_scans, n_patients: test scans with a prediction, and their patients.
        confusion_matrix: scans by true class (row) and called class (column); null for multi-label data.
        prevalence: share of the test scans with each class.
        micro_auc: AUC of all (scan, class) pairs pooled.
        macro_average_precision: mean over the classes that have cases.
        decision_curves: by class, if at least 10 patients have it and 10 do not.
        prediction_sets: coverage and size of the bundle's prediction sets; None if it has none.
        abstained: predictions that abstain, and performance on the others; None if the bundle never abstains.
        abstention: performance from all scans called to only the most certain.
        subgroups: measures by column and value.
        subgroup_tests: by column, whether its subgroups differ.
        baselines: simpler models on the same scans by name, fitted on development scans; if ``external``,
            cross-validated by patient within the evaluated cohort.
        shortcuts: how well acquisition facts alone predict the class; None for another cohort with too few patients.
        overlap, domain: how much of another cohort the bundle has seen, and how far it differs from the development
            cohort; None for the test scans of a run.
        fusion: the network with handcrafted features and clinical columns; None if the bundle has no fusion.
        out_of_fold: whether these are validation scans, for lack of test scans, each predicted by a network that had
            not trained on it and called by thresholds from other patients.
        repeats: results of each repeat, if cross-validation was repeated; all other measures are of the mean
            probabilities.
        calibrated_on: validation patients of each class that the calibration was fitted on; empty if unknown.
        chosen_point: how the operating point was chosen; None if unknown.
        test_set_access: how often a network has read these test scans, and with which decisions.
        altered_copies: pairs of table rows whose scans, of two patients on two sides of the split, look like copies.
        kept_network, generalisation_gap: results of a training run; None if a bundle was evaluated on its own.
    """

    renamed_keys: ClassVar[dict[str, str]] = {"fit_gap": "generalisation_gap", "openings": "test_set_access"}

    schema_version: Literal["1"] = Field(default=SCHEMA_VERSION, alias="schema")
    labels: list[str]
    multilabel: bool
    n_scans: int
    n_patients: int
    classes: dict[str, ClassMetrics]
    balanced_accuracy: Estimate
    macro_auc: Estimate
    micro_auc: Estimate | None = None
    macro_average_precision: Estimate | None = None
    confusion_matrix: list[list[int]] | None
    prevalence: dict[str, float]
    calibration: Calibration
    out_of_fold: bool = False
    repeats: Repeats | None = None
    calibrated_on: dict[str, int] = Field(default_factory=dict)
    operating_point: OperatingPoint
    decision_curves: dict[str, DecisionCurve] = Field(default_factory=dict)
    prediction_sets: SetMetrics | None = None
    abstained: Abstained | None = None
    abstention: list[AbstentionPoint] = Field(default_factory=list)
    baselines: dict[str, BaselineMetrics] = Field(default_factory=dict)
    subgroups: dict[str, dict[str, Subgroup]] = Field(default_factory=dict)
    subgroup_tests: dict[str, SubgroupTest] = Field(default_factory=dict)
    shortcuts: Shortcuts | None = None
    overlap: Overlap | None = None
    domain: Domain | None = None
    transfer_gain: TransferGain | None = None
    kept_network: KeptNetwork | None = None
    generalisation_gap: GeneralisationGap | None = None
    fusion: FusionMetrics | None = None
    chosen_point: ChosenPoint | None = None
    test_set_access: AccessCounts | None = None
    altered_copies: list[tuple[int, int]] = Field(default_factory=list)
    failed: Failed = Failed()
    evaluation: EvaluationConfig = EvaluationConfig()
    bootstrap: Bootstrap

    @property
    def external(self) -> bool:
        """Whether a bundle was evaluated on a cohort other than that of its run."""
        return self.domain is not None

    def save(self, path: Path | str) -> None:
        """Write metrics.json atomically. Raises OutputError if it cannot be written."""
        write_text(Path(path), self.model_dump_json(indent=2, by_alias=True) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Metrics:
        """Read metrics.json. Raises UsageError if the file cannot be read or is not of this schema."""
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise UsageError("cannot be read", where=path, expected="a metrics.json") from error
        except ValidationError as error:
            found, key = first_problem(error)
            raise UsageError(
                f"{error.error_count()} entries do not fit, first {key or 'file'}: {found}",
                where=path,
                expected=f"a metrics.json of schema {SCHEMA_VERSION}",
                action="Run evaluate again",
            ) from error


def reported_metrics() -> tuple[str, ...]:
    """Return the names of the measures that a run reports: all that this version computes, so none is cherry-picked."""
    of_class = [name for name, field in ClassMetrics.model_fields.items() if "Estimate" in str(field.annotation)]
    overall = [name for name, field in Metrics.model_fields.items() if "Estimate" in str(field.annotation)]
    return (
        *(f"classes.{name}" for name in of_class),
        *overall,
        "confusion_matrix",
        "calibration",
        "decision_curves",
        "prediction_sets",
        "abstention",
        "baselines",
        "transfer_gain",
    )
