"""Data classes of the queue's contents, for its callers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

FHIR = "fhir"  # takes the place of a SOP class for FHIR resources
State = Literal["received", "complete", "predicted", "sent", "committed", "dead"]
Added = Literal["new", "known", "conflict", "another patient", "too many"]
Judgement = Literal["agree", "disagree", "comment", "rerun"]


@dataclass(frozen=True, repr=False)
class Described:
    """Patient and study according to the images. For the review page only; without ``repr``, so as not to be logged."""

    patient_name: str = ""
    patient_id: str = ""
    accession: str = ""
    study_date: str = ""
    modality: str = ""
    description: str = ""


@dataclass(frozen=True)
class Instance:
    """One received image. ``patient_mark`` is a hash that tells patients apart without identifying them."""

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
    """State of a study; ``id`` is its short name, also of its folder."""

    id: str
    study_uid: str
    state: State
    revision: int
    attempts: int
    reason: str


STUDY_COLUMNS = ", ".join(column.name for column in fields(Study))


@dataclass(frozen=True)
class ResultFile:
    """One result of a study.

    Attributes:
        sop_uid, sop_class: UIDs of the object; the class is ``FHIR`` for FHIR resources.
        file: path relative to the node's folder.
        route: route of its bundle; empty if there are no routes.
        revision: the study's revision; 0 until it is in the queue.
    """

    sop_uid: str
    sop_class: str
    file: str
    route: str = ""
    revision: int = 0


@dataclass(frozen=True)
class Delivery:
    """Delivery of one result to one destination.

    Attributes:
        state: ``waiting``, ``sent``, ``committed``, ``dead`` or ``superseded``.
        attempts: failed attempts to send it, or requests for storage commitment.
        may_be_there: 1 if the destination has accepted it, or may have done so without the node knowing; else 0.
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
    """The answer on one series, as the page shows it.

    Attributes:
        facts: as in the record.
        route, bundle: route and mark of the bundle that gave it.
        series_uid: the series within the study's folder; empty if the answer is not on a single series.
        map_file: heat map on the series' voxels, relative to the node's folder; empty if there is none.
    """

    facts: Mapping[str, object]
    route: str = ""
    bundle: str = ""
    series_uid: str = field(default="", repr=False)
    map_file: str = ""


@dataclass(frozen=True)
class RemovedRouteAnswer:
    """The last answer on a study by a route that was removed from node.yaml.

    Attributes:
        study, route: the study, and the name of the removed route.
        bundle, identity: mark of its bundle, and the bundle's identity in results.
        heir: a route of node.yaml with the same bundle that has not answered the study, taken for the same route under
            a new name; None if there is none.
    """

    study: str
    route: str
    bundle: str
    identity: str
    heir: str | None


@dataclass(frozen=True)
class Feedback:
    """A person's feedback on an answer; the latest one on a series counts.

    Attributes:
        user: user name on the page.
        study, revision, number: identify the answer.
        kind: kind of feedback; ``rerun`` requests a new prediction of the study.
        label: the person's label of the series: a class, or findings joined by ``;``; None: no label given.
        comment: free text, which may identify a patient: never log it.
        series_uid, bundle, time: filled in by the queue.
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
