"""Split a cohort into training, validation and test sets, by patient and never by scan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from med_transfer.cohorts.table import Cohort
from med_transfer.errors import CohortError, PatientLeak, TooFewPatients
from med_transfer.errors.numbers import counted
from med_transfer.errors.sentence import few
from med_transfer.predictions.patient_folds import patient_folds

FEW_PATIENTS = 60  # with fewer, a test set of one fifth has under 12 patients: intervals of 40 points and more
TEST_FRACTION, REPEATS = 0.2, 5  # defaults where they are automatic
Images = tuple[str, ...]  # ``Volume.content_hash`` of each scan of a case; empty where none was read


class SplitConfig(BaseModel):
    """How a cohort is divided.

    Attributes:
        kind: ``kfold`` trains one model per fold, each validated on its own fold; ``holdout`` trains one.
        folds: fold models of the ensemble (kfold only).
        test_fraction: share of the scans that no fold model ever sees, rounded to one part in a whole number (0.3 is
            a third); 0 keeps none, and every case is then evaluated by the fold models that did not train on it (with
            holdout: the validation cases), with calibration and thresholds from other patients. None: by the table, 0
            for kfold with fewer than 60 patients, else 0.2.
        val_fraction: share of the development scans used for validation (holdout only), rounded likewise.
        repeats: with a test_fraction of 0, number of times that the cases are divided into folds, each time with the
            next seed; a case's probability is the mean. None: 1, but 5 where test_fraction is automatic and 0 and no
            network is trained.
        seed: the same seed gives the same split, whatever the order of the rows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["kfold", "holdout"] = "kfold"
    folds: int = Field(default=5, ge=2, le=50)
    test_fraction: float | None = Field(default=None, ge=0, le=0.5)
    val_fraction: float = Field(default=0.2, gt=0, le=0.5)
    repeats: int | None = Field(default=None, ge=1, le=50)
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="before")
    @classmethod
    def _once_unless_asked(cls, values: Any) -> Any:
        """One repeat if ``test_fraction`` is given, as in every config written before repeats existed."""
        if isinstance(values, dict) and values.get("test_fraction") is not None and values.get("repeats") is None:
            return values | {"repeats": 1}
        return values

    @model_validator(mode="after")
    def _repeats_cross_validation(self) -> SplitConfig:
        if (self.repeats or 1) > 1 and (self.test_fraction or self.kind == "holdout"):
            what = f"test_fraction {self.test_fraction:g}" if self.test_fraction else "kind holdout"
            raise ValueError(f"repeats {self.repeats} with {what}: only kfold with test_fraction 0 can be repeated")
        return self

    def resolved(self, cohort: Cohort, *, cheap: bool = False) -> SplitConfig:
        """Return the config with automatic values chosen for a cohort.

        Args:
            cohort: the cohort to be split.
            cheap: whether a repeat trains no network, so that repeats are affordable.
        """
        if self.test_fraction is not None:
            return self.model_copy(update={"repeats": self.repeats or 1})
        by_column = any(case.split for case in cohort.cases)
        few = self.kind == "kfold" and not by_column and len(set(cohort.patients)) < FEW_PATIENTS
        repeats = self.repeats or (REPEATS if few and cheap else 1)
        fraction = 0.0 if few or repeats > 1 else TEST_FRACTION
        return self.model_copy(update={"test_fraction": fraction, "repeats": repeats})


@dataclass(frozen=True)
class Split:
    """A split, as positions in ``Cohort.cases``.

    Attributes:
        test: cases seen by no fold model.
        validation: validation cases of each fold.
        always_training: development cases that no fold validates (holdout).
        steering: training cases of each fold used for early stopping. Needed only without a test set, where the
            validation cases are evaluated and must not also stop the training; a fold's tuple is empty if it has too
            few patients.
        further: further repeats, with the same cases in other folds; the fold models that are kept belong to the first.
    """

    test: tuple[int, ...]
    validation: tuple[tuple[int, ...], ...]
    always_training: tuple[int, ...] = ()
    steering: tuple[tuple[int, ...], ...] = ()
    further: tuple[Split, ...] = ()

    @property
    def repeats(self) -> tuple[Split, ...]:
        """All repeats: this split and the further ones."""
        return (self, *self.further)

    @property
    def n_fold_models(self) -> int:
        """Number of networks in the ensemble, one per fold."""
        return len(self.validation)

    @property
    def validated(self) -> tuple[int, ...]:
        """Every validation case, fold by fold."""
        return tuple(chain.from_iterable(self.validation))

    @property
    def evaluated(self) -> tuple[int, ...]:
        """The test cases; without a test set all validation cases, each predicted by the fold that held it out."""
        return self.test or self.validated

    @property
    def fold_of(self) -> dict[int, int]:
        """Fold of each validation case, whose model did not train on it."""
        return {case: fold for fold, part in enumerate(self.validation) for case in part}

    @property
    def development(self) -> tuple[int, ...]:
        """All training and validation cases, sorted."""
        return tuple(sorted({*self.always_training, *self.validated}))

    def steering_of(self, fold: int) -> tuple[int, ...]:
        """Return the training cases used for early stopping; empty where the validation cases may be used.

        Raises:
            TooFewPatients: the validation cases are evaluated, and no other patients can be spared.
        """
        if self.steering and not self.steering[fold]:
            raise TooFewPatients(
                f"a class has one patient outside validation {fold}, which is evaluated",
                where="split",
                expected="two, one of whom says when training stops",
                action="Add patients, keep some apart (split.test_fraction), or use transfer.strategy=linear_probe "
                "with from_scratch_baseline=false",
            )
        return self.steering[fold] if self.steering else ()

    def learned_from(self, fold: int, *, steered: bool) -> tuple[int, ...]:
        """Return the training cases of a fold, without the early-stopping cases if ``steered``.

        Raises:
            TooFewPatients: as :meth:`steering_of`.
        """
        steering = set(self.steering_of(fold)) if steered else set()
        return tuple(case for case in self.training(fold) if case not in steering)

    def training(self, fold: int) -> tuple[int, ...]:
        """Return the development cases that are not validation cases of this fold."""
        held_out = set(self.validation[fold])
        return tuple(case for case in self.development if case not in held_out)


def split_cohort(cohort: Cohort, config: SplitConfig) -> Split:
    """Split a cohort by patient, stratified by class; automatic values in ``config`` are chosen from the table.

    A patient with scans of several classes is stratified by the rarest one. A ``split`` column in the table takes
    precedence: ``test`` rows are the test set, ``val`` rows the validation set of a single fold. Without ``val`` rows
    the ``train`` rows are divided by ``config``.

    Raises:
        TooFewPatients: a class has fewer patients than there are parts, or is missing from a part.
        CohortError: the split column is incomplete or contradicts ``config``.
        PatientLeak: the split column puts one patient on two sides.
    """
    everyone, config = np.arange(len(cohort)), config.resolved(cohort)
    if any(case.split for case in cohort.cases):
        return _split_by_column(cohort, config)
    _require_patients(cohort, everyone, config, with_test=bool(config.test_fraction))
    test = _stratified(cohort, everyone, config.test_fraction, config.seed) if config.test_fraction else everyone[:0]
    split = _steered(cohort, _split_development(cohort, test, np.setdiff1d(everyone, test), config), config)
    test_part = {"the test set": split.test} if config.test_fraction else {}
    _require_classes(cohort, test_part | _parts_of_folds(split))
    return split


def check_leakage(cohort: Cohort, content_hashes: Sequence[Images], split: Split) -> None:
    """Check that no patient and no identical image is on both sides of a split.

    Args:
        cohort: the cohort that was split.
        content_hashes: ``Volume.content_hash`` of every scan of every case; empty where none could be read.
        split: the split to check.

    Raises:
        PatientLeak: one is; the message names the scans, never the patient. Identical images under two patients are
            one scan filed twice; whichever patient is right, the results would be optimistic.
    """
    for side, other, here, there in sides(split):
        for keys, what in ((_patient_keys(cohort), "one patient"), (content_hashes, "identical images")):
            if pairs := shared_by(keys, here, there):
                raise PatientLeak(
                    f"{what} in {side} and in {other}: {pairs_text(cohort, pairs)}",
                    where=cohort.path or "",
                    expected="every patient and every image on one side only",
                    action="Correct the split or patient column, or remove the copies",
                )


def without_test_rows(cohort: Cohort, purpose: str) -> Cohort:
    """Return the rows that are not marked ``split=test``.

    Args:
        cohort: the whole table.
        purpose: what the rows are for, for the message.

    Raises:
        CohortError: all rows are marked.
        PatientLeak: a patient has rows of both kinds; the others would show what the test is to be kept from.
    """
    test = [number for number, case in enumerate(cohort.cases) if case.split == "test"]
    others = sorted(set(range(len(cohort))) - set(test))
    if not others:
        raise CohortError("every row is marked split=test", where=cohort.path or "", expected=f"rows {purpose}")
    if pairs := shared_by(_patient_keys(cohort), others, test):
        raise PatientLeak(
            f"one patient in rows {purpose} and in rows marked split=test: {pairs_text(cohort, pairs)}",
            where=cohort.path or "",
            expected="every patient on one side only",
            action="Correct the split or patient column",
        )
    return cohort.subset(others)


def sides(split: Split) -> Iterator[tuple[str, str, tuple[int, ...], tuple[int, ...]]]:
    """Yield each pair of parts that must share no patient: both names, and the cases of each."""
    yield "the test set", "development", split.test, split.development
    for part, validation, training in _folds_of(split):
        yield part, "its training", validation, training


def _folds_of(split: Split) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Name, validation and training cases of each fold of each repeat."""
    for repeat, of_repeat in enumerate(split.repeats, start=1):
        for fold, validation in enumerate(of_repeat.validation):
            name = f"{fold} of repeat {repeat}" if repeat > 1 else f"{fold}"
            yield f"validation {name}", validation, of_repeat.training(fold)


def shared_by(keys: Sequence[Images], here: Sequence[int], there: Sequence[int]) -> list[tuple[int, int]]:
    """Return each case of ``here`` that shares a key with ``there``, paired with the first such case of ``there``."""
    first = {key: case for case in reversed(there) for key in keys[case]}
    return [(case, min(first[key] for key in keys[case] if key in first)) for case in here if first.keys() & keys[case]]


def pairs_text(cohort: Cohort, pairs: Sequence[tuple[int, int]], max_pairs: int = 6) -> str:
    """The first pairs of cases, such as those of :func:`shared_by`, by row and file, and the number of the others."""
    return few([f"{cohort.cases[a]} with {cohort.cases[b]}" for a, b in pairs], max_pairs)


def _patient_keys(cohort: Cohort) -> list[tuple[str, ...]]:
    """Keys for :func:`shared_by`; an unknown patient has none."""
    return [(patient,) if patient else () for patient in cohort.patients]


def _split_by_column(cohort: Cohort, config: SplitConfig) -> Split:
    empty = [case for case in cohort.cases if not case.split]
    if empty:
        raise CohortError(
            f"{empty[0]} has no split ({len(empty)} rows in all)",
            where=cohort.path or "",
            expected="train, val or test in every row, or in none",
        )
    column = np.array([case.split for case in cohort.cases])
    train, validation, test = (np.flatnonzero(column == word) for word in ("train", "val", "test"))
    if not len(train):
        raise CohortError("the split column has no train row", where=cohort.path or "", expected="train rows")
    if not len(test) and config.test_fraction:
        raise CohortError(
            "the split column has no test row",
            where=cohort.path or "",
            expected="test rows",
            action="Mark some, or set split.test_fraction=0 when another cohort is the test",
        )
    if config.repeats != 1 and (len(test) or len(validation)):
        raise CohortError(
            f"split.repeats {config.repeats}, and the split column has test or val rows",
            where=cohort.path or "",
            expected="train rows alone, which can be divided again and again",
            action="Set split.repeats=1, or take the column out",
        )
    if len(validation):
        split = Split(_indices(test), (_indices(validation),), _indices(train))
    else:
        _require_patients(cohort, train, config, with_test=False)
        split = _split_development(cohort, test, train, config)
    split = _steered(cohort, split, config)
    check_leakage(cohort, [()] * len(cohort), split)
    _require_classes(cohort, _parts_of_folds(split))
    return split


def _steered(cohort: Cohort, split: Split, config: SplitConfig) -> Split:
    """Add early-stopping cases if there is no test set: evaluated validation cases must not also stop the training."""
    if split.test:
        return split
    further = tuple(_steered(cohort, of_repeat, config) for of_repeat in split.further)
    steering = tuple(_steering(cohort, np.array(split.training(fold)), config) for fold in range(split.n_fold_models))
    return replace(split, steering=steering, further=further)


def _steering(cohort: Cohort, training: NDArray, config: SplitConfig) -> tuple[int, ...]:
    """A representative part of the training cases; empty if a class has fewer than two patients among them."""
    _, present = _presence(cohort)
    rarest = int(_patient_counts(cohort, present, training).min())
    if rarest < 2:
        return ()
    return _indices(_stratified(cohort, training, max(config.val_fraction, 1 / rarest), config.seed))


def _split_development(cohort: Cohort, test: NDArray, development: NDArray, config: SplitConfig) -> Split:
    if config.kind == "kfold":
        seeds = [(config.seed + repeat) % 2**32 for repeat in range(config.repeats or 1)]
        divided = [_folds(cohort, development, config.folds, seed) for seed in seeds]
        first, *further = [Split(_indices(test), tuple(map(_indices, folds))) for folds in divided]
        return replace(first, further=tuple(further))
    validation = _stratified(cohort, development, config.val_fraction, config.seed)
    return Split(_indices(test), (_indices(validation),), _indices(np.setdiff1d(development, validation)))


def _folds(cohort: Cohort, among: NDArray, n_folds: int, seed: int) -> list[NDArray]:
    """Disjoint parts that cover ``among``, by whole patients and with nearly equal numbers of each class."""
    patients = np.array(cohort.patients)[among]
    order = np.argsort(patients, kind="stable")  # the result must not depend on the order of the rows
    strata, patients, among = _strata(cohort, among)[order], patients[order], among[order]
    folds = patient_folds(strata, patients.tolist(), n_folds, seed)  # strata may be too small: _require_classes checks
    return [among[folds == number] for number in range(n_folds)]


def _stratified(cohort: Cohort, among: NDArray, fraction: float, seed: int) -> NDArray:
    """One of ``1 / fraction`` equal parts: the one whose share of each class is nearest to ``fraction``."""
    n_parts = round(min(1 / fraction, len(set(np.array(cohort.patients)[among]))))
    _, present = _presence(cohort)
    total = present[among].sum(axis=0)
    parts = _folds(cohort, among, n_parts, seed)
    return min(parts, key=lambda part: np.abs(present[part].sum(axis=0) / total - 1 / n_parts).max())


def _presence(cohort: Cohort) -> tuple[list[str], NDArray[np.bool_]]:
    """Names, and boolean [scan, name], of what each part must contain: each class, or each finding's two states."""
    names, truth = list(cohort.labels.names), cohort.truth
    if not cohort.labels.multilabel:
        return names, truth
    return [*names, *(f"no {name}" for name in names)], np.concatenate([truth, ~truth], axis=1)


def _patient_counts(cohort: Cohort, present: NDArray[np.bool_], among: NDArray) -> NDArray[np.intp]:
    patients = np.array(cohort.patients, dtype=object)
    return np.array([len(set(patients[among[column]])) for column in present[among].T])


def _strata(cohort: Cohort, among: NDArray) -> NDArray[np.intp]:
    """For each scan, the rarest class of its patient, by number of patients."""
    _, present = _presence(cohort)
    counts = _patient_counts(cohort, present, among)
    patients = np.array(cohort.patients)[among]
    strata = np.zeros(len(among), dtype=np.intp)
    for patient in np.unique(patients):
        scans = patients == patient
        of_patient = np.flatnonzero(present[among[scans]].any(axis=0))
        strata[scans] = of_patient[np.argmin(counts[of_patient])]
    return strata


def patients_to_divide(cohort: Cohort) -> dict[str, int]:
    """Return the patients of each class, or of each finding's two states, among the rows that folds are made of.

    These are all rows that a ``split`` column does not give to the test.
    """
    names, present = _presence(cohort)
    rows = np.flatnonzero([case.split != "test" for case in cohort.cases])
    return dict(zip(names, map(int, _patient_counts(cohort, present, rows)), strict=True))


def require_separable(cohort: Cohort) -> None:
    """Check, before scans are read, that every class has a patient to train on and another to evaluate.

    A table with a ``split`` column is not checked here.

    Raises:
        TooFewPatients: a class has fewer than two patients.
    """
    if not any(case.split for case in cohort.cases):
        everyone, least = np.arange(len(cohort)), SplitConfig(folds=2, test_fraction=0)
        _require_patients(cohort, everyone, least, with_test=False)


def _require_patients(cohort: Cohort, among: NDArray, config: SplitConfig, with_test: bool) -> None:
    kfold = config.kind == "kfold"
    needed = (config.folds if kfold else 2) + with_test
    parts = f"{config.folds} folds" if kfold else "training and validation"
    parts += " and the test set" if with_test else ""
    names, present = _presence(cohort)
    for name, count in zip(names, _patient_counts(cohort, present, among), strict=True):
        if count < needed:
            raise TooFewPatients(
                f"class {name!r} has {count} patient{'' if count == 1 else 's'}",
                where=cohort.path or "",
                expected=f"at least {needed}, one each for {parts}",
                action=_few_patients_advice(int(count), config, with_test),
            )


def _few_patients_advice(count: int, config: SplitConfig, with_test: bool) -> str:
    """Suggest a remedy that suffices for a class with this many patients."""
    kfold, of_training = config.kind == "kfold", count - with_test
    if kfold and of_training >= 2:
        return f"Use fewer folds (split.folds={of_training}), or add patients of this class"
    if with_test and count >= 2:
        folds = f", split.folds={count}" if kfold else ""
        return f"Keep no test set (split.test_fraction=0{folds}), or add patients of this class"
    return "Add patients of this class, join it with another, or leave it out"


def _parts_of_folds(split: Split) -> dict[str, tuple[int, ...]]:
    parts = {}
    for part, validation, training in _folds_of(split):
        parts |= {part: validation, part.replace("validation", "training"): training}
    return parts


def _require_classes(cohort: Cohort, parts: dict[str, tuple[int, ...]]) -> None:
    names, present = _presence(cohort)
    counts = _patient_counts(cohort, present, np.arange(len(cohort)))
    for part, cases in parts.items():
        missing = np.flatnonzero(~present[list(cases)].any(axis=0))
        for column in missing[:1]:
            raise TooFewPatients(
                f"class {names[column]!r}, with {counted(int(counts[column]), 'patient')}, is missing from {part}",
                where=cohort.path or "",
                expected="every class in every part",
                action="Change the split (folds, seed, column), or add patients of this class",
            )


def _indices(cases: NDArray) -> tuple[int, ...]:
    return tuple(sorted(int(case) for case in cases))
