"""``cohort.lock.json`` records what a model was trained on, so that it is never evaluated on the same patients."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_serializer,
    model_serializer,
)

from med_transfer.atomic import write_text
from med_transfer.cohorts.hashed_names import hash_names, old_hash, recognise, salt_of
from med_transfer.cohorts.label_text import other_decimals, spelling_key
from med_transfer.cohorts.splits import Images, Split, SplitConfig
from med_transfer.cohorts.table import Cohort
from med_transfer.errors import CohortError
from med_transfer.errors.numbers import counted
from med_transfer.errors.sentence import few
from med_transfer.predictions.spelling import normalised_text

log = logging.getLogger(__name__)

SCHEMA = 1
TEST, TRAIN = "test", "train"
_WRITTEN, _RESTORE = "what the run has written there", "Restore it from a copy, or choose another folder"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class LockedCase(_Record):
    """One scan.

    Attributes:
        scan_hash, patient_hash: see :mod:`med_transfer.cohorts.hashed_names`; the path is hashed because it may contain
            a patient's name.
        scan: the path in plain text, only in locks of older versions.
        label: class name, or the sorted findings.
        content_hash: ``Volume.content_hash``; None when the scan could not be read.
        channel_hashes: content hashes of the further scans of the case, in channel order.
        role: ``test``; ``fold-0``, ``fold-1``, ... for a validation case of that fold; ``train`` for one that no fold
            validates.
        further_roles: roles in the further repeats of the split.
    """

    scan: str = ""
    series_uid: str
    patient_hash: str
    label: str | tuple[str, ...]
    content_hash: str | None
    role: str
    channel_hashes: tuple[str, ...] = ()
    scan_hash: str = ""
    further_roles: tuple[str, ...] = ()

    @property
    def content_hashes(self) -> tuple[str, ...]:
        """Content hashes of all scans of the case; empty when the scan could not be read."""
        return (self.content_hash, *self.channel_hashes) if self.content_hash else ()

    @model_serializer(mode="wrap")
    def _as_before(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit empty values of fields that were added later, so that the hashes of old locks stay valid."""
        later = ("scan", "channel_hashes", "scan_hash", "further_roles")
        return {key: value for key, value in serialize(self).items() if value or key not in later}


class CohortLock(_Record):
    """Content of ``cohort.lock.json``; ``cohort_hash`` covers all other fields and ignores the order of the rows."""

    schema_version: int = Field(default=SCHEMA, alias="schema")
    classes: tuple[str, ...]
    multilabel: bool
    split: SplitConfig
    cases: tuple[LockedCase, ...]
    cohort_hash: str

    @field_serializer("split")
    def _split_as_before(self, split: SplitConfig) -> dict[str, Any]:
        """Omit a single repeat, as locks did before repeats existed."""
        return split.model_dump(exclude=None if (split.repeats or 1) > 1 else {"repeats"})

    @classmethod
    def of(
        cls,
        cohort: Cohort,
        content_hashes: Sequence[Images],
        split: Split,
        config: SplitConfig,
        *,
        as_before: bool = False,
    ) -> CohortLock:
        """Record a cohort and its split.

        Args:
            cohort: the cohort.
            content_hashes: content hashes of each case's scans, in the order of its cases.
            split: the split to record.
            config: the config that the split was made with.
            as_before: make the lock that older versions made, with unsalted hashes, for comparison with such a lock.
        """
        roles = [_roles(repeat) for repeat in split.repeats]
        salt = salt_of(image for images in content_hashes for image in images)
        patients = {} if as_before else hash_names(cohort.patients, salt)
        scans = {} if as_before else hash_names((case.scan for case in cohort.cases), salt)
        cases = [
            LockedCase(
                scan=case.scan if as_before else "",
                series_uid=case.series_uid,
                patient_hash=patients.get(case.patient) or old_hash(case.patient),
                label=case.label if isinstance(case.label, str) else tuple(sorted(case.label or ())),
                content_hash=images[0] if images else None,
                role=roles[0][number],
                further_roles=tuple(of_repeat[number] for of_repeat in roles[1:]),
                channel_hashes=images[1:],
                scan_hash=scans.get(case.scan, ""),
            )
            for number, (case, images) in enumerate(zip(cohort.cases, content_hashes, strict=True))
        ]
        lock = cls(
            classes=cohort.labels.names,
            multilabel=cohort.labels.multilabel,
            split=config,
            cases=tuple(sorted(cases, key=lambda case: case.model_dump_json())),
            cohort_hash="",
        )
        return lock.model_copy(update={"cohort_hash": lock.computed_hash()})

    @classmethod
    def read(cls, path: Path) -> CohortLock:
        """Read and verify a lock. Raises CohortError if it is missing, invalid, or was edited."""
        try:
            lock = cls.model_validate_json(Path(path).read_bytes())
        except OSError as error:
            found = f"cannot be read ({error.strerror})" if error.strerror else "cannot be read"
            raise CohortError(found, where=path, expected=_WRITTEN, action=_RESTORE) from error
        except ValidationError as error:
            found = f"is not a cohort lock ({error.error_count()} problems)"
            raise CohortError(found, where=path, expected=_WRITTEN, action=_RESTORE) from error
        if lock.schema_version != SCHEMA:
            raise CohortError(f"schema {lock.schema_version}", where=path, expected=f"schema {SCHEMA}")
        if lock.cohort_hash != lock.computed_hash():
            found = "does not match its own hash: it was edited or damaged"
            raise CohortError(found, where=path, expected=_WRITTEN, action=_RESTORE)
        return lock

    def write(self, path: Path) -> None:
        """Write the lock atomically. Raises OutputError."""
        write_text(Path(path), self.model_dump_json(by_alias=True, indent=2) + "\n")

    def computed_hash(self) -> str:
        """Return the SHA-256 of the canonical JSON of everything but the hash itself."""
        content: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude={"cohort_hash"})
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def labelled_scans_hash(cohort: Cohort, content_hashes: Sequence[Images]) -> str:
    """Return the SHA-256 of scans and labels, independent of file names and of the order of the cases."""
    rows = sorted(
        [[case.label] if isinstance(case.label, str) else sorted(case.label or ()), *images]
        for case, images in zip(cohort.cases, content_hashes, strict=True)
    )
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def overlap(lock: CohortLock, cohort: Cohort, content_hashes: Sequence[Images]) -> tuple[int, ...]:
    """Return the positions of cases seen in development: the same patient, or the same image under another name.

    Cases in the lock's own test set do not count, since evaluation may use them again.
    """
    seen = [case for case in lock.cases if case.role != TEST]
    images = [image for case in seen for image in case.content_hashes]
    return seen_before(cohort, content_hashes, [case.patient_hash for case in seen], images)


def seen_before(
    cohort: Cohort, content_hashes: Sequence[Images], patient_hashes: Iterable[str], images: Iterable[str]
) -> tuple[int, ...]:
    """Return the positions of cases whose patient, or image in any channel, is among those a network was trained on.

    Patient 12 also matches 12.0, as pandas writes it in a column with gaps.

    Args:
        cohort: the cohort to check.
        content_hashes: ``Volume.content_hash`` of every scan of every case; empty where none was read.
        patient_hashes: hashes with any salts, see :mod:`med_transfer.cohorts.hashed_names`.
        images: content hashes of the training images.
    """
    hashes = set(patient_hashes)
    known = set(recognise(cohort.patients, hashes))
    others = {other: name for name in set(cohort.patients) - known if (other := other_decimals(name))}
    known |= {others[other] for other in recognise(others, hashes)}
    return shared(cohort, content_hashes, known, images)


def warn_of_other_spellings(cohort: Cohort, patient_hashes: Iterable[str]) -> None:
    """Warn of patients whose name differs only in case, spaces, zeros or look-alike signs from one trained on.

    Within one table such names are refused. Across two tables only the hospitals know whether they are one person, so
    these patients are not counted as seen.

    Args:
        cohort: the cohort to check.
        patient_hashes: as for :func:`seen_before`.
    """
    hashes, names = set(patient_hashes), set(cohort.patients)
    spelt = {
        other: name
        for name in names
        for plain in (normalised_text(name), spelling_key(name))
        for other in (plain, plain.upper())
        if other != other_decimals(name)  # counts as seen
    }
    alike = {spelt[other] for other in recognise(spelt.keys() - names, hashes)} - recognise(names, hashes).keys()
    if alike:
        log.warning(
            "the names of %s differ from those of training patients only in capital letters, spaces or leading zeros, "
            "and count as other patients: %s. If they are the same people, give them the same names",
            counted(len(alike), "patient"),
            few([str(case) for case in cohort.cases if case.patient in alike]),
        )


def shared(
    cohort: Cohort, content_hashes: Sequence[Images], patients: Iterable[str], images: Iterable[str]
) -> tuple[int, ...]:
    """Return the positions of cases whose patient (by name), or image in any channel, is among the given ones."""
    patients, images = set(patients) - {""}, set(images)
    return tuple(
        number
        for number, (case, own) in enumerate(zip(cohort.cases, content_hashes, strict=True))
        if case.patient in patients or not images.isdisjoint(own)
    )


def _roles(split: Split) -> dict[int, str]:
    roles = dict.fromkeys(split.test, TEST) | dict.fromkeys(split.always_training, TRAIN)
    for fold, validation in enumerate(split.validation):
        roles |= dict.fromkeys(validation, f"fold-{fold}")
    return roles
