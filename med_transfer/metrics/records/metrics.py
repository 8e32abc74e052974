"""metrics.json: everything that was measured, as a program reads it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, ValidationError

from med_transfer.atomic import write_text
from med_transfer.errors import UsageError
from med_transfer.errors.sentence import Sentence, Text
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
    """The most certain scans are called at the operating point, the others are not.

    Attributes:
        share: of all test scans that are called.
        n_scans: that are called.
        certainty: of the least certain scan among them, see ``abstention.certainty``.
        called: by class, the share of its scans that are called; None without such a scan.
        sensitivity: by class, among the scans that are called.
        balanced_accuracy: among the scans that are called.
    """

    share: float
    n_scans: int
    certainty: float
    called: dict[str, float | None]
    sensitivity: dict[str, Estimate]
    balanced_accuracy: Estimate


class BaselineMetrics(Record):
    """A baseline on the same scans.

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


class TransferGain(Record):
    """What pretraining brought over the same network trained from scratch at equal budget.

    Attributes:
        balanced_sensitivity, macro_auc: transferred minus scratch, paired.
        verdict: ``gain``, ``none`` (no difference shown) or ``harm`` (negative transfer).
    """

    balanced_sensitivity: Estimate
    macro_auc: Estimate
    verdict: Literal["gain", "none", "harm"]
    n_patients: int
    method: Text


class KeptNetwork(Record):
    """Which of the two networks the bundle holds, and so which one every other figure is about.

    Attributes:
        network: the ``transferred`` network or the one from ``scratch``.
        rule: what was to happen on harm, set before the run: ``report`` or ``fallback``.
        validation: transferred minus scratch on validation scans, which alone decides; None where it was not asked.
        sentence: the same in words.
    """

    renamed_keys: ClassVar[dict[str, str]] = {"kept": "network"}

    network: Literal["transferred", "scratch"]
    rule: Literal["report", "fallback"]
    validation: TransferGain | None = None
    sentence: Text

    @property
    def fell_back(self) -> bool:
        """Whether the transferred network was given up."""
        return self.network == "scratch" and self.validation is not None


class Repeats(Record):
    """Cross-validation in other folds each time: what each repeat's predictions alone would have been measured as.

    Attributes:
        macro_auc, balanced_accuracy: one a repeat; None where it is undefined. How far they lie apart is the chance of
            the division into folds, not that of the patients.
    """

    n: int
    macro_auc: list[float | None]
    balanced_accuracy: list[float | None]


class GeneralisationGap(Record):
    """How much better the networks do on scans they learned from than on scans they did not; a sign of over-fitting.

    Both at the epoch that was kept, without augmentation, all members together. The validation scans chose that epoch,
    so the gap is rather too small than too large.

    Attributes:
        training_sensitivity, validation_sensitivity: balanced; None when undefined.
        training_loss, validation_loss: cross-entropy before calibration.
        limit: a difference in balanced sensitivity above this is ``exceeded``.
    """

    training_sensitivity: float | None
    validation_sensitivity: float | None
    training_loss: float
    validation_loss: float
    limit: float

    @property
    def difference(self) -> float | None:
        """Training minus validation balanced sensitivity."""
        if self.training_sensitivity is None or self.validation_sensitivity is None:
            return None
        return self.training_sensitivity - self.validation_sensitivity

    @property
    def exceeded(self) -> bool:
        """Whether the difference is known and above the limit."""
        return self.difference is not None and self.difference > self.limit

    @property
    def sentence(self) -> str:
        """In words and numbers."""
        if self.training_sensitivity is None or self.validation_sensitivity is None or self.difference is None:
            return Sentence("the gap between training and validation is undefined")
        gap = Sentence(
            "balanced sensitivity {training:.2f} on training and {validation:.2f} on validation scans, a gap of "
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
        return Sentence("{gap}: the networks have learned their training scans by heart", gap=gap)


class Failed(Record):
    """Scans that gave no prediction; they are in no rate of this file.

    Attributes:
        reasons: what was found wrong, what was expected and what to do, to number of scans.
    """

    n: int = 0
    reasons: dict[Text, int] = Field(default_factory=dict)

    @property
    def found(self) -> dict[str, int]:
        """Scans by what was found wrong alone, the most frequent first; by the whole reason in a record from a file."""
        counted: Counter[str] = Counter()
        for reason, n in self.reasons.items():
            counted[reason.values["found"] if isinstance(reason, Sentence) else reason] += n
        return dict(counted.most_common())


class Bootstrap(Record):
    """How the resampled intervals can be had again."""

    n_boot: int = 2000
    seed: int = 0


class Abstained(Record):
    """Predictions that abstain: the scan is out-of-distribution, or outside of the input envelope. All other measures
    count their calls too.

    Attributes:
        n: such scans.
        above: novelty above which a prediction abstains.
        reasons: code to the number of such scans; one may have several. ``novelty``, or ``outside_<fact>``.
        balanced_accuracy: of the scans whose prediction does not.
    """

    n: int
    above: float
    balanced_accuracy: Estimate
    reasons: dict[str, int] = Field(default_factory=dict)


class Metrics(Record):
    """metrics.json.

    Attributes:
        schema_version: ``schema`` in the file.
        labels: class names in the order of the confusion matrix.
        evaluation: which intervals the rates have, and the prevalence that was stated.
        n_scans, n_patients: test scans that have a prediction, and their patients.
        confusion_matrix: scans by true class (row) and called class (column); null for several findings a scan.
        prevalence: share of the test scans that have the class.
        micro_auc: of all (scan, class) pairs together.
        macro_average_precision: mean over the classes that have cases.
        decision_curves: by class that 10 patients or more have and have not; what acting on its probability is worth.
        prediction_sets: the bundle's sets of classes on these scans; None where the bundle has none.
        abstained: how many predictions abstain, and the others' measure; None where the bundle never abstains.
        abstention: from all scans called to only the most certain.
        subgroups: column to value to measures.
        subgroup_tests: column to whether its subgroups differ.
        baselines: name to a simpler model on the same scans, fitted on development scans; where ``external``, within
            the evaluated cohort, each patient by models of the others.
        shortcuts: what the acquisition alone gives away; of another cohort None where it has too few patients.
        overlap, domain: how far a cohort that a bundle was evaluated on is new to it, and how far it lies from the one
            the bundle was developed on; None for the test scans of a run.
        fusion: the network with handcrafted features and clinical columns; None where the bundle has no fusion.
        out_of_fold: there were no test scans; these are validation scans, each predicted by the network that had not
            trained on it and called by thresholds from other patients.
        repeats: of that, where it was repeated; every other figure is of the mean of the repeats' probabilities.
        calibrated_on: validation patients of each class that the calibration was learned from; empty: not known.
        chosen_point: how the operating point was chosen; None for a bundle that does not tell.
        test_set_access: how often these test scans were read by a network, and under which lock.
        altered_copies: rows of the table whose scans, of two patients on two sides of the split, look like copies.
        kept_network, generalisation_gap: of a training run; None for a bundle that was evaluated alone.
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
        """Whether a bundle was evaluated on another cohort than that of its run."""
        return self.domain is not None

    def save(self, path: Path | str) -> None:
        """Write metrics.json whole or not at all. Raises OutputError when it cannot be written."""
        write_text(Path(path), self.model_dump_json(indent=2, by_alias=True) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Metrics:
        """Read metrics.json. Raises UsageError when the file is absent or is not of this schema."""
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            raise UsageError("cannot be read", where=path, expected="a metrics.json") from error
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "file"
            raise UsageError(
                f"{error.error_count()} entries do not fit, first {key}: {first['msg']}",
                where=path,
                expected=f"a metrics.json of schema {SCHEMA_VERSION}",
                action="Run evaluate again",
            ) from error


def reported_metrics() -> tuple[str, ...]:
    """Names of the measures that a run reports: all that this version measures, none picked afterwards."""
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
