"""What the queue holds, as its callers see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FHIR = "fhir"  # in place of a SOP class, of what is no DICOM object
State = Literal["received", "complete", "predicted", "sent", "committed", "dead"]
Added = Literal["new", "known", "conflict", "another patient", "too many"]


@dataclass(frozen=True)
class Instance:
    """One received image. ``patient_mark`` tells two patients apart and names neither."""

    sop_uid: str
    study: str
    study_uid: str
    series_uid: str
    patient_mark: str
    sop_class: str
    transfer_syntax: str
    sha256: str
    file: str


@dataclass(frozen=True)
class Study:
    """One study's state; ``id`` is short and names its folder."""

    id: str
    study_uid: str
    state: State
    revision: int
    attempts: int
    reason: str


@dataclass(frozen=True)
class ResultFile:
    """One object that was made of a study; ``route`` names its bundle's, where there are several."""

    sop_uid: str
    sop_class: str
    file: str
    route: str = ""


@dataclass(frozen=True)
class Delivery:
    """One result for one destination: ``waiting``, ``sent``, ``committed``, ``dead`` or ``superseded``."""

    sop_uid: str
    sop_class: str
    file: str
    study: str
    destination: str
    state: str
    attempts: int
