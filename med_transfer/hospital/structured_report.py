"""A study's answers as a Comprehensive 3D SR. Source: DICOM PS3.16 TID 1500, TID 1501, TID 4019; IHE AIR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from med_transfer.hospital import codes as own
from med_transfer.hospital.analysis import Analysis
from med_transfer.hospital.result_header import MANUFACTURER, ResultHeader
from med_transfer.hospital.settings.value_types import CodedEntry
from med_transfer.hospital.uids import uid_of
from med_transfer.predictions.record import Prediction


def structured_report(
    analyses: Sequence[Analysis],
    header: ResultHeader,
    class_codes: dict[str, CodedEntry],
    previous: Sequence[Dataset] = (),
) -> sr.Comprehensive3DSR:
    """Create the report of a study, with one measurement group per series.

    Args:
        analyses: analyses of one study.
        header: what its results have in common.
        class_codes: the site's codes for classes, by name.
        previous: reports that this one replaces.
    """
    images = [image for analysis in analyses for image in analysis.images]
    groups = [_group(analysis, header, class_codes) for analysis in analyses]
    described: dict[str, Any] = header.instance("SR") | {"instance_number": header.revision}
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer(header)),
        procedure_reported=own.PROCEDURES.get(str(images[0].get("Modality", "")), own.IMAGING),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    return sr.Comprehensive3DSR(
        evidence=images,
        content=content,
        **described,
        is_complete=True,
        is_verified=False,
        previous_versions=list(previous) or None,
        coding_schemes=own.SCHEMES,
    )


def observer(header: ResultHeader) -> sr.ObserverContext:
    """The node with its bundle, as the observing device."""
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=header.device_uid, name=header.station, manufacturer_name=MANUFACTURER, model_name=header.model_name
    )
    return sr.ObserverContext(codes.DCM.Device, observer_identifying_attributes=device)


def _group(
    analysis: Analysis, header: ResultHeader, class_codes: dict[str, CodedEntry]
) -> sr.MeasurementsAndQualitativeEvaluations:
    """Measurement group of one series."""
    prediction = analysis.prediction
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=uid_of("tracking", header.sop_uid("SR"), prediction.series_uid), identifier="Classification"
        ),
        algorithm_id=sr.AlgorithmIdentification("med_transfer", header.version, header.parameters),
        measurements=_measurements(prediction),
        qualitative_evaluations=_evaluations(analysis, header, class_codes),
        source_images=[
            sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID) for image in analysis.images
        ],
    )
    if prediction.reason:
        kind = sr.RelationshipTypeValues.CONTAINS
        group[0].ContentSequence.append(sr.TextContentItem(own.COMMENT, prediction.reason, relationship_type=kind))
    return group


def _measurements(prediction: Prediction) -> list[sr.Measurement]:
    numbers = [(own.probability_code(name), value) for name, value in prediction.probabilities.items()]
    if prediction.novelty is not None:
        numbers.append((own.NOVELTY, prediction.novelty))
    return [sr.Measurement(name=name, value=float(value), unit=own.NO_UNIT) for name, value in numbers]


def _evaluations(
    analysis: Analysis, header: ResultHeader, class_codes: dict[str, CodedEntry]
) -> list[sr.QualitativeEvaluation]:
    prediction, reasons = analysis.prediction, [own.reason_code(reason) for reason in analysis.reasons]
    if prediction.status != "ok":
        items = [(own.ANALYSIS, own.NOT_ANALYSED), *((own.REFUSAL_REASON, reason) for reason in reasons)]
        return [sr.QualitativeEvaluation(name, value) for name, value in items]
    items = [(own.ANALYSIS, own.ANALYSED), (own.ABSTAINED, own.YES if prediction.abstained else own.NO)]
    items += [(own.ABSTENTION_REASON, reason) for reason in reasons]
    found = prediction.predicted.split(";") if prediction.predicted else []
    if header.multilabel:
        items += [
            (own.class_code(name, class_codes), own.PRESENT if name in found else own.ABSENT) for name in header.classes
        ]
    else:
        items += [(own.PREDICTED, own.class_code(name, class_codes)) for name in found]
    return [sr.QualitativeEvaluation(name, value) for name, value in items]
