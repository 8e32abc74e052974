"""Write a study's analyses as DICOM and FHIR files, ready to be sent."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path, PurePosixPath

from matplotlib.figure import Figure
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR

from med_transfer.atomic import write_bytes, write_text
from med_transfer.bundle import versions
from med_transfer.errors.sentence import parts
from med_transfer.hospital.analysis import Analysis
from med_transfer.hospital.config import Results
from med_transfer.hospital.encapsulated_pdf import encapsulated_pdf
from med_transfer.hospital.fhir import Json, fhir_bundle
from med_transfer.hospital.map_objects import key_objects, parametric_maps, segmentations
from med_transfer.hospital.queue import FHIR, ResultFile
from med_transfer.hospital.result_header import ResultHeader
from med_transfer.hospital.secondary_capture import page, page_of_refused, secondary_capture
from med_transfer.hospital.structured_report import structured_report
from med_transfer.scans.search.series_rules import SeriesRules

log = logging.getLogger(__name__)


def basis_of(
    instances: Sequence[tuple[str, str]],
    bundle: str,
    settings: Results,
    series: SeriesRules | None = None,
    missing: int = 0,
) -> str:
    """Hash of everything that determines a result.

    Args:
        instances: UID and hash of each image.
        bundle: identity of the predictor.
        settings: which objects to create.
        series: rules that choose series; None: every usable series.
        missing: number of images that did not arrive.
    """
    rules = series.model_dump(mode="json") if series else None
    all_of_it = [*map(list, instances), missing, bundle, rules, settings.model_dump(mode="json"), versions()]
    return hashlib.sha256(json.dumps(all_of_it, sort_keys=True).encode()).hexdigest()


def write_results(
    folder: Path,
    analyses: Sequence[Analysis],
    header: ResultHeader,
    settings: Results,
    earlier: Sequence[ResultFile] = (),
    place: str = "results",
) -> list[ResultFile]:
    """Write the requested objects; the paths returned are relative to the folder.

    Args:
        folder: the node's folder, or another for results alone.
        analyses: analyses of one study.
        header: what the objects have in common.
        settings: which objects to create.
        earlier: results of earlier revisions that a destination has or may have, in order.
        place: where in the folder the files are written; empty: in the folder itself.

    Raises:
        OutputError: a file cannot be written.
    """
    refusals = settings.of_rejected or bool(earlier)  # else a withdrawn answer would stay the last
    shown = [a for a in analyses if a.images and (a.prediction.status == "ok" or refusals)]
    answered, refused = ([a for a in shown if (a.prediction.status == "ok") is ok] for ok in (True, False))
    if not shown:
        return []
    objects: list[Dataset] = []
    if settings.structured_report:
        replaced = _replaced(folder, earlier, Comprehensive3DSRStorage, header.sop_uid("SR"))
        before = [dcmread(file) for file in replaced[-1:]]
        objects.append(structured_report(shown, header, settings.codes, before))
    drawn = settings.secondary_capture or settings.encapsulated_pdf
    pages = _pages(answered, refused, header) if drawn else []
    if settings.secondary_capture:
        objects += [
            secondary_capture(a.images[0], figure, header, n)
            for n, (a, figure) in enumerate(zip([*answered, *refused[:1]], pages, strict=True))
        ]
    optional = {
        "segmentation": partial(segmentations, answered, header),
        "parametric_map": partial(parametric_maps, answered, header),
        "key_objects": partial(key_objects, answered, header),
        "encapsulated_pdf": partial(encapsulated_pdf, shown, pages, header),
    }
    for name, make in optional.items():
        objects += _attempted(name, make) if getattr(settings, name) else []
    written = [_written(folder, place, dataset) for dataset in objects]
    if settings.fhir:
        before = [json.loads(file.read_bytes()) for file in _replaced(folder, earlier, FHIR, header.sop_uid("FHIR"))]
        written.append(_written_fhir(folder, place, header, fhir_bundle(shown, header, settings.codes, before)))
    return written


def _replaced(folder: Path, earlier: Sequence[ResultFile], sop_class: str, own: str) -> list[Path]:
    """Files of earlier objects of a class that the new one replaces; without itself, if the result is unchanged."""
    return [folder / one.file for one in earlier if one.sop_class == sop_class and one.sop_uid != own]


def _pages(answered: Sequence[Analysis], refused: Sequence[Analysis], header: ResultHeader) -> list[Figure]:
    pages = [page(analysis, header) for analysis in answered]
    return [*pages, page_of_refused(refused, header)] if refused else pages


def _attempted(name: str, make: Callable[[], list[Dataset]]) -> list[Dataset]:
    """Create optional objects; none if that fails, as when images lack what they need, so that the report is sent."""
    try:
        return make()
    except Exception as error:  # its message may contain patient data
        log.warning("%s: none is made (%s)", name, type(error).__name__)
        log.debug("not made", exc_info=True)
        return []


def _written(folder: Path, place: str, dataset: Dataset) -> ResultFile:
    buffer, file = io.BytesIO(), PurePosixPath(place, f"{dataset.SOPInstanceUID}.dcm").as_posix()
    dataset.SpecificCharacterSet = _character_set(dataset)
    dataset.save_as(buffer, enforce_file_format=True)
    write_bytes(folder / file, buffer.getvalue())
    return ResultFile(str(dataset.SOPInstanceUID), str(dataset.SOPClassUID), file)


def _character_set(dataset: Dataset) -> str:
    """Latin 1, which every reader supports, if it has all characters; else UTF-8."""
    try:
        for element in dataset.iterall():
            if element.VR in CUSTOMIZABLE_CHARSET_VR:
                str(element.value).encode("latin-1")
    except UnicodeEncodeError:
        return "ISO_IR 192"
    return "ISO_IR 100"


def _written_fhir(folder: Path, place: str, header: ResultHeader, bundle: Json) -> ResultFile:
    uid = header.sop_uid("FHIR")
    file = PurePosixPath(place, f"{uid}.json").as_posix()
    write_text(folder / file, json.dumps(bundle, indent=1, ensure_ascii=False))
    return ResultFile(uid, FHIR, file)


def facts(analysis: Analysis, bundle: str, basis: str, outputs: Sequence[ResultFile]) -> dict[str, object]:
    """What the record keeps of one series; without names, identifiers, dates, or UIDs assigned by the hospital."""
    prediction = analysis.prediction
    return {
        "bundle": bundle,
        "basis": basis,
        "images": len(analysis.images),
        "status": prediction.status,
        "reason": prediction.found,
        "reason_in_parts": parts(prediction.found),
        "predicted": prediction.predicted,
        "probabilities": prediction.probabilities,
        "abstained": prediction.abstained,
        "because": list(analysis.reasons),
        "novelty": prediction.novelty,
        "similar": [asdict(case) for case in prediction.similar],
        "seconds": prediction.seconds,
        "outputs": [output.sop_uid for output in outputs],
        "versions": versions(),
    }
