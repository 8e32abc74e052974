"""Operating point: the rule that turns probabilities into predicted classes, at which sensitivity is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from med_transfer.errors import ConfigError
from med_transfer.errors.numbers import threshold
from med_transfer.predictions.labels import Labels

Calls = NDArray[np.bool_]
Probabilities = NDArray[np.float64]
_OF_CLASSES = "'argmax', 'balanced_argmax', 'class_threshold' or 'cost'"


class OperatingPoint(BaseModel):
    """The rule that turns probabilities into calls (predicted classes).

    Rules for exclusive classes:

    - ``argmax``: the most probable class.
    - ``balanced_argmax``: the class with the largest ratio of probability to threshold. A class's threshold is its
      probability where the network favours no class, so that class frequency has no influence: a rare class is called
      if the scan looks like it. With a single network this is the class with the largest logit.
    - ``class_threshold``: among the classes that reach their threshold, the one with the largest ratio of probability
      to threshold (like ``cutoff`` of Breiman's random forest). If none does, the most probable class without a
      threshold; if every class has one, again the one with the largest ratio. A single threshold therefore decides
      alone whether its class is called.
    - ``cost``: the class with the least expected cost, the sum over true classes of probability x cost (Elkan 2001,
      The foundations of cost-sensitive learning, IJCAI).

    Rule for several findings: ``threshold``, every finding whose probability reaches its threshold.

    Attributes:
        thresholds: probability in [0, 1] by class or finding; above 0 for ``class_threshold`` and ``balanced_argmax``.
        costs: cost by true class and called class, for ``cost``; a right call costs 0 unless stated.
        chosen_on: ``fixed`` before training, or chosen on ``validation`` scans; never on test scans.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Literal["argmax", "balanced_argmax", "threshold", "class_threshold", "cost"] = "argmax"
    thresholds: dict[str, float] = Field(default_factory=dict)
    costs: dict[str, dict[str, float]] = Field(default_factory=dict)
    chosen_on: Literal["fixed", "validation"] = "fixed"

    @classmethod
    def default(cls, labels: Labels) -> OperatingPoint:
        """Return the default rule: the most probable class, or findings from a probability of 0.5."""
        if labels.multilabel:
            return cls(rule="threshold", thresholds=dict.fromkeys(labels.names, 0.5))
        return cls()

    @classmethod
    def balanced(cls, labels: Labels, without_evidence: Sequence[float]) -> OperatingPoint:
        """Return the rule that calls what is more probable than without evidence.

        Args:
            labels: the classes.
            without_evidence: [class], from :meth:`.calibration.Calibrator.without_evidence`.
        """
        thresholds = dict(zip(labels.names, without_evidence, strict=True))
        return cls(rule="threshold" if labels.multilabel else "balanced_argmax", thresholds=thresholds)

    def predictions(self, probabilities: Probabilities, labels: Labels) -> Calls:
        """Return predicted classes as boolean [scan, class], for probabilities [scan, class].

        Raises:
            ConfigError: the rule does not fit the labels, or a threshold or cost is missing or invalid.
        """
        self.require_fit(labels)
        if self.rule == "cost":
            return _one_call(-probabilities @ self._cost_matrix(labels))
        if self.rule in ("class_threshold", "balanced_argmax"):
            return _one_call(self._precedence(probabilities, labels))
        if self.rule == "argmax":
            return _one_call(probabilities)
        return probabilities >= np.array([self.thresholds[name] for name in labels.names])

    def require_fit(self, labels: Labels) -> None:
        """Check that the rule fits the labels. Raises ConfigError like :meth:`predictions`."""
        if (self.rule == "threshold") != labels.multilabel:
            kind = "several findings a scan" if labels.multilabel else "one class a scan"
            needed = "'threshold'" if labels.multilabel else _OF_CLASSES
            raise ConfigError(f"rule {self.rule!r} with labels of {kind}", where="operating_point", expected=needed)
        self._require_thresholds(labels)
        if self.rule == "cost":
            self._require_costs(labels)

    def _require_thresholds(self, labels: Labels) -> None:
        where, classes = "operating_point.thresholds", ", ".join(labels.names)
        for name, value in self.thresholds.items():
            if name not in labels.names:
                raise ConfigError(f"a threshold for {name!r}", where=where, expected=f"one of {classes}")
            if not 0 <= value <= 1 or (value == 0 and self.rule != "threshold"):
                raise ConfigError(
                    f"found {value:g} for {name}", where=where, expected="a probability above 0, at most 1"
                )
        missing = [name for name in labels.names if name not in self.thresholds]
        if self.rule in ("threshold", "balanced_argmax") and missing:
            each = "one for every finding" if labels.multilabel else "one for every class"
            raise ConfigError(f"no threshold for {', '.join(missing)}", where=where, expected=each)
        if self.rule == "class_threshold" and not self.thresholds:
            raise ConfigError("no threshold", where=where, expected=f"one for at least one of {classes}")

    def _require_costs(self, labels: Labels) -> None:
        """Require a cost for every wrong call, above that of the right call (Elkan 2001, section 1.2)."""
        where, names = "operating_point.costs", labels.names
        named = [*self.costs, *(predicted for row in self.costs.values() for predicted in row)]
        if unknown := sorted(set(named) - set(names)):
            raise ConfigError(f"a cost for {unknown[0]!r}", where=where, expected=f"one of {', '.join(names)}")
        for true in names:
            row = {true: 0.0} | self.costs.get(true, {})
            for predicted in names:
                if predicted not in row:
                    raise ConfigError(
                        f"no cost of calling {predicted} what is {true}",
                        where=where,
                        expected=f"{true}: {{{predicted}: ...}}",
                    )
                if not np.isfinite(row[predicted]) or (predicted != true and row[predicted] <= row[true]):
                    raise ConfigError(
                        f"calling {predicted} what is {true} costs {row[predicted]:g}",
                        where=where,
                        expected=f"more than the right call, which costs {row[true]:g}",
                    )

    def _cost_matrix(self, labels: Labels) -> NDArray[np.float64]:
        """Costs as [true class, predicted class]."""
        rows = [{true: 0.0} | self.costs[true] for true in labels.names]
        return np.array([[row[predicted] for predicted in labels.names] for row in rows])

    def _precedence(self, probabilities: Probabilities, labels: Labels) -> NDArray[np.float64]:
        """Scores [scan, class]; the class with the greatest score is called."""
        limits = np.array([self.thresholds.get(name, np.nan) for name in labels.names])
        given, multiples = np.isfinite(limits), probabilities / limits
        reached = given & (probabilities >= limits)
        otherwise = multiples if given.all() else np.where(given, -np.inf, probabilities)
        return np.where(reached.any(axis=1, keepdims=True), np.where(reached, multiples, -np.inf), otherwise)

    def __str__(self) -> str:
        """The rule in words."""
        return self.translated(lambda template, /, **values: template.format(**values))

    def translated(self, t: Callable[..., str]) -> str:
        """Like ``str()``, translated by ``t``, which fills a template with its values."""
        if self.rule == "argmax":
            return t("the most probable class")
        if self.rule == "cost":
            return t("the class with the lowest expected cost")
        parts = ", ".join(f"{threshold(value)} ({name})" for name, value in self.thresholds.items())
        if self.rule == "balanced_argmax":
            return t(
                "the class whose probability is the greatest multiple of that without evidence: {parts}", parts=parts
            )
        if self.rule == "class_threshold":
            return self._class_thresholds_translated(t)
        if len(set(self.thresholds.values())) == 1:
            limit = threshold(next(iter(self.thresholds.values())))
            return t("every finding with a probability of {limit} or more", limit=limit)
        return t("every finding with a probability of at least {parts}", parts=parts)

    def _class_thresholds_translated(self, t: Callable[..., str]) -> str:
        limits = {name: threshold(value) for name, value in self.thresholds.items()}
        if len(limits) == 1:
            ((name, limit),) = limits.items()
            only = {"name": name, "limit": limit}
            return t("{name} from a probability of {limit}, else the most probable of the others", **only)
        parts = ", ".join(
            t("{name} from a probability of {limit}", name=name, limit=limit) for name, limit in limits.items()
        )
        return t(
            "{parts}; of several the one with the greatest multiple of its threshold; else the most probable of those "
            "without, or the greatest multiple",
            parts=parts,
        )


def _one_call(scores: NDArray[np.float64]) -> Calls:
    """Boolean [scan, class], true for the greatest score of each scan; the first of equals."""
    return np.eye(scores.shape[1], dtype=bool)[scores.argmax(axis=1)]
