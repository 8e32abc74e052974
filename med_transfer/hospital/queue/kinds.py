"""What the queue holds, as its callers see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

FHIR = "fhir"  # in place of a SOP class, of what is no DICOM object
State = Literal["received", "complete", "predicted", "sent", "committed", "dead"]
Added = Literal["new", "known", "conflict", "another patient", "too many"]
Judgement = Literal["agree", "disagree", "comment", "rerun"]


@dataclass(frozen=True, repr=False)
class Described:
    """What a study's images say of patient and study. For the page alone: it has no ``repr`` that could be logged."""

    patient_name: str = ""
    patient_id: str = ""
    accession: str = ""
    study_date: str = ""
    modality: str = ""
    description: str = ""


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
    described: Described | None = field(default=None, repr=False, compare=False)


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
    """One object that was made of a study, of its ``revision``; ``route`` names its bundle's, where there are several.

    ``revision`` is 0 before the queue has it.
    """

    sop_uid: str
    sop_class: str
    file: str
    route: str = ""
    revision: int = 0


@dataclass(frozen=True)
class Delivery:
    """One result for one destination: ``waiting``, ``sent``, ``committed``, ``dead`` or ``superseded``.

    ``may_be_there`` is 1 where the destination has taken it, or may have without the node's being told.
    """

    sop_uid: str
    sop_class: str
    file: str
    study: str
    destination: str
    state: str
    attempts: int
    may_be_there: int


@dataclass(frozen=True)
class SeriesAnswer:
    """What was said of one series, as the page shows it.

    Attributes:
        facts: as the record has them.
        route, bundle: which bundle said it; ``bundle`` is its mark.
        series_uid: name of the series in its folder; empty where the answer is not of one series.
        map_file: heat map on the series' voxels, relative to the node's folder; empty: none.
    """

    facts: Mapping[str, object]
    route: str = ""
    bundle: str = ""
    series_uid: str = field(default="", repr=False)
    map_file: str = ""


@dataclass(frozen=True)
class Departed:
    """Of one study, the last answer of a route that node.yaml names no more.

    Attributes:
        study, route: whose, and by which name.
        bundle, identity: mark of the bundle that said it, and as results name it.
        heir: a route of node.yaml with the same bundle that has said nothing of the study: the same under another name.
    """

    study: str
    route: str
    bundle: str
    identity: str
    heir: str | None


@dataclass(frozen=True)
class Feedback:
    """What a person says of an answer; a later one of the same series counts in place of an earlier one.

    Attributes:
        user: as the page knows them.
        study, revision, number: of the answer that it is about.
        kind: ``rerun`` asks for the study to be predicted anew.
        label: what the series is, in their view: a class, or findings joined by ``;``; None: they do not say.
        comment: in their words, which may name a patient: never logged.
        series_uid, bundle, time: filled in when it is kept.
    """

    user: str
    study: str
    revision: int
    number: int
    kind: Judgement
    label: str | None = None
    comment: str = field(default="", repr=False)
    series_uid: str = field(default="", repr=False)
    bundle: str = ""
    time: float = 0.0
