"""The audit record: who did what, as FHIR R4 AuditEvent resources in a tamper-evident log.

Source: https://hl7.org/fhir/R4/auditevent.html; DICOM PS3.15 A.5 (ATNA). A study is identified by its id in the node
and its StudyInstanceUID, a person by the user name; there are no patient names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from getpass import getuser
from typing import Literal

from med_transfer.hospital import record
from med_transfer.hospital.review.access.database import Database

What = Literal[
    "signed in",
    "not signed in",
    "signed out",
    "first operator",
    "refused",
    "saw worklist",
    "saw study",
    "saw images",
    "saw report",
    "saw load",
    "saw accesses",
    "exported record",
    "exported accesses",
    "exported labels",
    "deleted images",
    "backed up",
    "restored",
    "added user",
    "removed user",
    "judged",
    "asked to predict again",
]
UNKNOWN = "unknown"  # replaces a name that no user has, as it may be a password typed into the wrong field
_DCM, _TYPES = "http://dicom.nema.org/resources/ontology/DCM", "http://terminology.hl7.org/CodeSystem/audit-event-type"
_ACTIVITY, _ACCESS = ("110114", "User Authentication"), ("110103", "DICOM Instances Accessed")
_QUERY, _USE = ("110112", "Query"), ("110100", "Application Activity")
_SECURITY, _EXPORT = ("110113", "Security Alert"), ("110106", "Export")
_KINDS: dict[str, tuple[tuple[str, str], str]] = {  # type of event, action
    "signed in": (_ACTIVITY, "E"),
    "not signed in": (_ACTIVITY, "E"),
    "signed out": (_ACTIVITY, "E"),
    "first operator": (_SECURITY, "C"),
    "refused": (_SECURITY, "E"),
    "saw worklist": (_QUERY, "E"),
    "saw study": (_ACCESS, "R"),
    "saw images": (_ACCESS, "R"),
    "saw report": (_USE, "R"),
    "saw load": (_USE, "R"),
    "saw accesses": (("110101", "Audit Log Used"), "R"),
    "exported record": (_EXPORT, "R"),
    "exported accesses": (_EXPORT, "R"),
    "exported labels": (_EXPORT, "R"),
    "deleted images": (("110105", "DICOM Study Deleted"), "D"),
    "backed up": (_EXPORT, "R"),
    "restored": (_USE, "E"),
    "added user": (_SECURITY, "U"),
    "removed user": (_SECURITY, "D"),
    "judged": (_ACCESS, "C"),
    "asked to predict again": (_ACCESS, "U"),
}
_SIGNED = {"signed in": ("110122", "Login"), "not signed in": ("110122", "Login"), "signed out": ("110123", "Logout")}
_FAILED = {"not signed in", "refused"}


@dataclass(frozen=True)
class Seen:
    """The study that an event concerns."""

    id: str
    study_uid: str


class AuditTrail:
    """The audit record in the page's database."""

    def __init__(self, database: Database, station: str) -> None:
        self._database, self._station = database, station

    def tell(self, what: What, user: str, address: str, study: Seen | None = None, detail: str = "") -> None:
        """Add one event, which is on disk when this returns."""
        event = self._event(what, user, address, study, detail)
        self._database.together.write(lambda database: record.append(database, what, resource=event))

    def tell_here(self, what: What, study: Seen | None = None, detail: str = "") -> None:
        """Add an event caused by a command on this machine, with the operating system's user name."""
        self.tell(what, f"{getuser()} (command line)", "127.0.0.1", study, detail)

    def events(self) -> Iterator[dict]:
        """Yield all AuditEvent resources, in order."""
        for entry in record.all_entries(self._database.reading):
            yield entry["resource"]

    def latest(self, limit: int) -> list[dict[str, str]]:
        """The latest events for display: ``time`` (UTC), ``user``, ``what``, ``study``, ``address``, ``remark``."""
        rows = self._database.rows("SELECT entry FROM record ORDER BY number DESC LIMIT ?", limit)
        return [_line(json.loads(entry)) for (entry,) in rows]

    def audit(self) -> record.Audit:
        """Check the record's hash chain."""
        with self._database.reading() as database:
            return record.audit(database)

    def _event(self, what: What, user: str, address: str, study: Seen | None, detail: str) -> dict:
        (code, words), action = _KINDS[what]
        system, subtype = _DCM, _SIGNED.get(what)
        if subtype is None:
            system, subtype = "urn:med-transfer:event", (what.replace(" ", "-"), what)
        event: dict[str, object] = {
            "resourceType": "AuditEvent",
            "type": {"system": _DCM, "code": code, "display": words},
            "subtype": [{"system": system, "code": subtype[0], "display": subtype[1]}],
            "action": action,
            "recorded": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "outcome": "4" if what in _FAILED else "0",
            "agent": [
                {
                    "who": {"identifier": {"value": user}},
                    "altId": user,
                    "requestor": True,
                    "network": {"address": address, "type": "2"},
                }
            ],
            "source": {"observer": {"display": f"med-transfer {self._station}"}},
        }
        if detail:
            event["outcomeDesc"] = detail
        if study:
            event["entity"] = [_entity(study)]
        return event


def _line(entry: dict) -> dict[str, str]:
    event = entry["resource"]
    return {
        "time": event["recorded"][:19].replace("T", " "),
        "user": event["agent"][0]["altId"],
        "what": entry["event"],
        "study": event["entity"][0]["name"] if "entity" in event else "",
        "address": event["agent"][0]["network"]["address"],
        "remark": event.get("outcomeDesc", ""),
    }


def _entity(study: Seen) -> dict:
    return {
        "what": {"identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{study.study_uid}"}},
        "type": {"system": "http://terminology.hl7.org/CodeSystem/audit-entity-type", "code": "2"},
        "name": study.id,
    }
