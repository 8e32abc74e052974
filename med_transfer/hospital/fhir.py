"""A study's answers as FHIR R4 resources: one DiagnosticReport, and an Observation for each series.

They form a transaction with conditional creates: each entry is created only if its identifier is unknown, so that
posting it twice is harmless.

A later revision names the report that it replaces, and in the same transaction withdraws all resources of earlier ones.
A client that does not know the extension sees ``entered-in-error``, since no client may ignore the modifier element
``status``. If the server processes an earlier transaction late, nothing is created. The statuses ``amended`` and
``corrected`` do not apply, because they presuppose a final report.

Source: HL7 FHIR R4 (4.0.1): http.html#transaction, http.html#ccreate, http.html#cond-update, observation.html,
diagnosticreport.html (retraction), extension-diagnosticreport-replaces.html.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from med_transfer.hospital import codes as own
from med_transfer.hospital.analysis import Analysis
from med_transfer.hospital.result_header import RESEARCH_ONLY, ResultHeader
from med_transfer.hospital.settings.value_types import CodedEntry
from med_transfer.hospital.uids import uid_of

Json = dict[str, Any]

_SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "LN": "http://loinc.org",
    "RADLEX": "http://radlex.org",
    "UCUM": "http://unitsofmeasure.org",
}
_UIDS = "urn:dicom:uid"
_REPLACES = "http://hl7.org/fhir/StructureDefinition/diagnosticReport-replaces"
_IMAGING_STUDY = Code("18748-4", "LN", "Diagnostic imaging study")


def fhir_bundle(
    analyses: Sequence[Analysis], header: ResultHeader, class_codes: dict[str, CodedEntry], earlier: Sequence[Json] = ()
) -> Json:
    """Return the transaction as JSON. Its resources are ``preliminary``; those of ``earlier`` ones are withdrawn.

    Args:
        analyses: analyses of one study.
        header: what its results have in common.
        class_codes: the site's codes for classes, by name.
        earlier: transactions of earlier revisions, oldest first.
    """
    image, issued = analyses[0].images[0], {"issued": datetime.now(UTC).isoformat(timespec="milliseconds")}
    observations = [
        _entry(_observation(analysis, header, class_codes, image) | issued, header.sop_uid("Observation", number))
        for number, analysis in enumerate(analyses)
    ]
    before = [
        entry for transaction in earlier for entry in transaction["entry"] if entry["request"]["method"] == "POST"
    ]
    report = {
        "resourceType": "DiagnosticReport",
        **_replaces(before),
        "status": "preliminary",
        "category": [_concept_of("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD", "Radiology")],
        "code": _concept(_IMAGING_STUDY),
        "subject": _subject(image),
        "imagingStudy": [_study(image)],
        **issued,
        "result": [{"reference": entry["fullUrl"]} for entry in observations],
        "conclusion": f"{RESEARCH_ONLY}. {'; '.join(_in_words(analysis) for analysis in analyses)}",
    }
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [_entry(report, header.sop_uid("DiagnosticReport")), *observations, *map(_withdrawn, before)],
    }


def _replaces(before: Sequence[Json]) -> Json:
    """The "replaces" extension, which can name only one report: the last."""
    reports = [entry["fullUrl"] for entry in before if entry["resource"]["resourceType"] == "DiagnosticReport"]
    return {"extension": [{"url": _REPLACES, "valueReference": {"reference": reports[-1]}}]} if reports else {}


def _withdrawn(entry: Json) -> Json:
    """The resource as entered in error, by a conditional update, which also creates it if the server never had it."""
    resource, request = entry["resource"] | {"status": "entered-in-error"}, entry["request"]
    if "conclusion" in resource:
        resource["conclusion"] = f"{RESEARCH_ONLY}. This report has been withdrawn: a later one takes its place."
    url = f"{request['url']}?{request['ifNoneExist']}"
    return {"fullUrl": entry["fullUrl"], "resource": resource, "request": {"method": "PUT", "url": url}}


def _observation(analysis: Analysis, header: ResultHeader, class_codes: dict[str, CodedEntry], image: Dataset) -> Json:
    """Observation of one series."""
    prediction = analysis.prediction
    observation: Json = {
        "resourceType": "Observation",
        "status": "preliminary",
        "category": [_concept_of("http://terminology.hl7.org/CodeSystem/observation-category", "imaging", "Imaging")],
        "code": _concept(own.ANALYSIS),
        "subject": _subject(image),
        "device": {"display": f"med_transfer {header.version}, {header.model_name}"},
        "derivedFrom": [_study(image) | {"display": f"series {analysis.images[0].SeriesInstanceUID}"}],
        "component": _components(analysis, header, class_codes),
        "note": [{"text": text} for text in (RESEARCH_ONLY, header.parameters[1], prediction.reason) if text],
    }
    if prediction.status != "ok":
        system = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
        observation["dataAbsentReason"] = _concept_of(system, "error", "Error") | {"text": "Not analysed"}
    elif prediction.predicted and not header.multilabel:
        observation["valueCodeableConcept"] = _concept(own.class_code(prediction.predicted, class_codes))
    return {name: value for name, value in observation.items() if value}


def _components(analysis: Analysis, header: ResultHeader, class_codes: dict[str, CodedEntry]) -> list[Json]:
    prediction, ok = analysis.prediction, analysis.prediction.status == "ok"
    why = own.ABSTENTION_REASON if ok else own.REFUSAL_REASON
    components = [_coded(why, own.reason_code(reason)) for reason in analysis.reasons]
    if not ok:
        return components
    found = prediction.predicted.split(";")
    if header.multilabel:
        components += [
            _coded(own.class_code(name, class_codes), own.PRESENT if name in found else own.ABSENT)
            for name in header.classes
        ]
    numbers = [(own.probability_code(name), value) for name, value in prediction.probabilities.items()]
    numbers += [(own.NOVELTY, prediction.novelty)] if prediction.novelty is not None else []
    unit = {"unit": "1", "system": _SYSTEMS["UCUM"], "code": "1"}
    components += [{"code": _concept(name), "valueQuantity": {"value": value} | unit} for name, value in numbers]
    return [*components, {"code": _concept(own.ABSTAINED), "valueBoolean": prediction.abstained}]


def _entry(resource: Json, uid: str) -> Json:
    """Entry that creates the resource under a reproducible UID, at most once."""
    identifier = _uid(uid)
    return {
        "fullUrl": f"urn:uuid:{uuid.UUID(int=int(uid.removeprefix('2.25.')))}",
        "resource": resource | {"identifier": [identifier]},
        "request": {
            "method": "POST",
            "url": resource["resourceType"],
            "ifNoneExist": f"identifier={identifier['system']}|{identifier['value']}",
        },
    }


def _subject(image: Dataset) -> Json:
    """Reference to the patient by identifier only; the server knows the patient, so no name is sent.

    Without a PatientID there is no identifier: a made-up one could be that of another patient.
    """
    patient, issuer = (str(image.get(keyword, "") or "") for keyword in ("PatientID", "IssuerOfPatientID"))
    if not patient:
        return {"type": "Patient", "display": "unknown"}
    identifier = {"value": patient}
    return {"identifier": identifier | ({"assigner": {"display": issuer}} if issuer else {}), "type": "Patient"}


def _study(image: Dataset) -> Json:
    return {"identifier": _uid(str(image.StudyInstanceUID)), "type": "ImagingStudy"}


def _uid(uid: str) -> Json:
    return {"system": _UIDS, "value": f"urn:oid:{uid}"}


def _coded(name: Code, value: Code) -> Json:
    return {"code": _concept(name), "valueCodeableConcept": _concept(value)}


def _concept(code: Code) -> Json:
    """CodeableConcept of a code; a scheme without a registered URI gets one derived from its name."""
    system = _SYSTEMS.get(code.scheme_designator) or f"urn:oid:{uid_of('coding scheme', code.scheme_designator)}"
    return _concept_of(system, code.value, code.meaning)


def _concept_of(system: str, code: str, display: str) -> Json:
    return {"coding": [{"system": system, "code": code, "display": display}], "text": display}


def _in_words(analysis: Analysis) -> str:
    prediction = analysis.prediction
    if prediction.status != "ok":
        return "Not analysed"
    return f"{prediction.predicted or 'nothing'}{' (abstained)' if prediction.abstained else ''}"
