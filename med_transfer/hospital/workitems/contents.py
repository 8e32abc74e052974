"""Contents of a work item: the request, and what the node writes. Source: DICOM PS3.4 table CC.2.5-3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from highdicom.sr import CodedConcept
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from med_transfer.hospital.codes import PRIVATE, REASONS
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.queue import FHIR, Delivery
from med_transfer.hospital.settings.peers import AnyDestination, WebPeer
from med_transfer.hospital.settings.value_types import CodedEntry
from med_transfer.hospital.settings.workitems import Workitems
from med_transfer.hospital.uids import sop_reference

_DISCONTINUED = {
    "input_not_in_time": codes.DCM.ObjectSetIncomplete,
    "not_one_study": codes.DCM.IncorrectWorklistEntrySelected,
    "ScanNotFound": codes.DCM.ObjectTypesNotSupported,
    "InputRejected": codes.DCM.ObjectTypesNotSupported,
    "not-chosen": codes.DCM.ObjectTypesNotSupported,
    "GeometryRejected": codes.DCM.ObjectsIncorrectlyFormatted,
    "UnreadableScan": codes.DCM.ObjectsIncorrectlyFormatted,
    "UnusableVoxels": codes.DCM.ObjectsIncorrectlyFormatted,
}
_SENTENCES = {
    "input_not_in_time": "The study did not come in time",
    "not_one_study": "The input is not exactly one study",
    "cancel_requested": "Canceled as requested",
}


@dataclass(frozen=True)
class RequestedItem:
    """A work item as requested by the worklist.

    Attributes:
        uid: SOPInstanceUID of the item.
        state: ProcedureStepState.
        study_uids: StudyInstanceUIDs of its input.
        ready: whether the input is available, according to the worklist.
        urgent: whether its priority is HIGH.
        work_code: Scheduled Workitem Code, if any.
    """

    uid: str = field(repr=False)
    state: str
    study_uids: tuple[str, ...] = field(repr=False)
    ready: bool
    urgent: bool
    work_code: Dataset | None = field(repr=False)

    @classmethod
    def of(cls, item: Dataset) -> RequestedItem:
        """Parse a work item; missing attributes are empty."""
        uids = [str(one.get("StudyInstanceUID", "") or "") for one in _items(item, "InputInformationSequence")]
        work = _items(item, "ScheduledWorkitemCodeSequence")
        return cls(
            uid=str(item.get("SOPInstanceUID", "") or ""),
            state=str(item.get("ProcedureStepState", "") or ""),
            study_uids=tuple(uid for uid in dict.fromkeys(uids) if uid),
            ready=str(item.get("InputReadinessState", "") or "READY") == "READY",
            urgent=str(item.get("ScheduledProcedureStepPriority", "") or "") == "HIGH",
            work_code=work[0] if work else None,
        )


def search_keys(settings: Workitems) -> dict[str, str]:
    """Search keys for scheduled items that are meant for the node."""
    keys = {"ProcedureStepState": "SCHEDULED", "includefield": "ScheduledProcedureStepPriority"}
    if settings.label is not None:
        keys["WorklistLabel"] = settings.label
    for sequence, code in _wanted(settings).items():
        keys |= {f"{sequence}.CodeValue": code.value, f"{sequence}.CodingSchemeDesignator": code.scheme}
    return keys


def fits(item: Dataset, settings: Workitems, whole: bool = True) -> bool:
    """Whether an item is meant for the node; checked here, too, since a server may ignore search keys.

    A missing attribute counts as a mismatch only if the item is ``whole``, not a search result.
    """
    label = settings.label if whole or "WorklistLabel" in item else None
    if label is not None and str(item.get("WorklistLabel", "") or "") != label:
        return False
    return all(
        _has(_items(item, sequence), code) for sequence, code in _wanted(settings).items() if whole or sequence in item
    )


def _has(items: Sequence[Dataset], code: CodedEntry) -> bool:
    wanted = (code.value, code.scheme)
    return any((item.get("CodeValue", ""), item.get("CodingSchemeDesignator", "")) == wanted for item in items)


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Items of a sequence; empty if it is missing or malformed."""
    value = dataset.get(keyword, None)
    return list(value) if isinstance(value, DicomSequence) else []


def _wanted(settings: Workitems) -> dict[str, CodedEntry]:
    wanted = {"ScheduledStationNameCodeSequence": settings.station, "ScheduledWorkitemCodeSequence": settings.procedure}
    return {sequence: code for sequence, code in wanted.items() if code is not None}


def progress(percent: int, description: str) -> Dataset:
    """Changes that report the progress of an item."""
    step, changes = Dataset(), Dataset()
    step.ProcedureStepProgress, step.ProcedureStepProgressDescription = percent, description
    changes.ProcedureStepProgressInformationSequence = [step]
    return changes


def canceled(reason: str, now: float) -> Dataset:
    """Changes that report why an item is canceled; ``reason`` is a code of the node."""
    step, changes = Dataset(), Dataset()
    step.ProcedureStepCancellationDateTime = _date_time(now)
    step.ReasonForCancellation = f"{_SENTENCES.get(reason) or REASONS.get(reason, 'Cannot be done')} ({reason})"
    discontinued = _DISCONTINUED.get(reason, codes.DCM.DiscontinuedForUnspecifiedReason)
    step.ProcedureStepDiscontinuationReasonCodeSequence = [CodedConcept.from_code(discontinued)]
    changes.ProcedureStepProgressInformationSequence = [step]
    return changes


def performed(
    node: NodeConfig,
    station: CodedEntry | None,
    asked: RequestedItem,
    begun: float,
    now: float,
    outputs: Sequence[Dataset],
) -> Dataset:
    """Changes that report the performed procedure: station, work code, start and end in seconds since 1970, outputs."""
    named = (station.value, station.scheme, station.meaning) if station else (node.ae_title, PRIVATE, node.ae_title)
    done, changes = Dataset(), Dataset()
    done.PerformedStationNameCodeSequence = [CodedConcept.from_code(Code(*named))]
    done.PerformedProcedureStepStartDateTime = _date_time(begun)
    done.PerformedProcedureStepEndDateTime = _date_time(now)
    done.PerformedWorkitemCodeSequence = [asked.work_code or CodedConcept.from_code(codes.DCM.ImageProcessing)]
    done.OutputInformationSequence = list(outputs)
    changes.UnifiedProcedureStepPerformedProcedureSequence = [done]
    return changes


def references(node: NodeConfig, study_uid: str, outputs: Sequence[Delivery]) -> list[Dataset]:
    """References to each series of results, with where to retrieve it. Source: DICOM PS3.3 table 10-3b."""
    places = {destination.name: destination for destination in node.destinations}
    series: dict[str, dict[str, Delivery]] = {}
    where: dict[str, dict[str, AnyDestination]] = {}
    for output in outputs:
        if output.sop_class != FHIR and output.destination in places:
            uid = str(dcmread(node.folder / output.file, specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID)
            series.setdefault(uid, {})[output.sop_uid] = output
            where.setdefault(uid, {})[output.destination] = places[output.destination]
    return [_reference(study_uid, uid, list(made.values()), where[uid]) for uid, made in series.items()]


def _reference(
    study_uid: str, series_uid: str, made: Sequence[Delivery], where: Mapping[str, AnyDestination]
) -> Dataset:
    item = Dataset()
    item.TypeOfInstances, item.StudyInstanceUID, item.SeriesInstanceUID = "DICOM", study_uid, series_uid
    item.ReferencedSOPSequence = [sop_reference(result.sop_class, result.sop_uid) for result in made]
    by_dimse, by_web = [], []
    for place in where.values():
        source = Dataset()
        if isinstance(place, WebPeer):
            source.RetrieveURL = f"{place.name}/studies/{study_uid}/series/{series_uid}"
            by_web.append(source)
        else:
            source.RetrieveAETitle = place.ae_title
            by_dimse.append(source)
    if by_dimse:
        item.DICOMRetrievalSequence = by_dimse
    if by_web:
        item.WADORSRetrievalSequence = by_web
    return item


def _date_time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%d%H%M%S}+0000"
