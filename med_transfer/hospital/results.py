"""A study's analyses as DICOM files, ready to be sent."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from med_transfer.atomic import write_bytes
from med_transfer.bundle import versions
from med_transfer.hospital.analysis import Analysis
from med_transfer.hospital.config import NodeConfig, Results
from med_transfer.hospital.queue import ResultFile
from med_transfer.hospital.result_header import ResultHeader
from med_transfer.hospital.secondary_capture import secondary_capture
from med_transfer.hospital.structured_report import structured_report


def basis_of(instances: Sequence[tuple[str, str]], bundle: str, node: NodeConfig) -> str:
    """Hash of all that a result follows from: images, bundle, which series, and how results are written."""
    rules = node.study.series.model_dump(mode="json") if node.study.series else None
    all_of_it = [*map(list, instances), bundle, rules, node.results.model_dump(mode="json"), versions()]
    return hashlib.sha256(json.dumps(all_of_it, sort_keys=True).encode()).hexdigest()


def write_results(
    folder: Path,
    analyses: Sequence[Analysis],
    header: ResultHeader,
    settings: Results,
    previous: Sequence[Path] = (),
) -> list[ResultFile]:
    """Write the objects that the site wants; their names are relative to the folder.

    Args:
        folder: of the node.
        analyses: of one study.
        header: what the objects have in common.
        settings: which objects.
        previous: reports that the new one takes the place of.

    Raises:
        OutputError: a file cannot be written.
    """
    shown = [a for a in analyses if a.images and (a.prediction.status == "ok" or settings.of_rejected)]
    if not shown:
        return []
    objects: list[Dataset] = []
    if settings.structured_report:
        objects.append(structured_report(shown, header, settings.codes, [dcmread(file) for file in previous]))
    if settings.secondary_capture:
        objects += [secondary_capture(analysis, header, number) for number, analysis in enumerate(shown)]
    return [_written(folder, dataset) for dataset in objects]


def _written(folder: Path, dataset: Dataset) -> ResultFile:
    buffer, file = io.BytesIO(), f"results/{dataset.SOPInstanceUID}.dcm"
    dataset.save_as(buffer, enforce_file_format=True)
    write_bytes(folder / file, buffer.getvalue())
    return ResultFile(str(dataset.SOPInstanceUID), str(dataset.SOPClassUID), file)


def facts(analysis: Analysis, bundle: str, basis: str, outputs: Sequence[ResultFile]) -> dict[str, object]:
    """What the record keeps of one series: no name, identifier or date, and no UID of the hospital's."""
    prediction = analysis.prediction
    return {
        "bundle": bundle,
        "basis": basis,
        "images": len(analysis.images),
        "status": prediction.status,
        "reason": prediction.found,
        "predicted": prediction.predicted,
        "probabilities": prediction.probabilities,
        "abstained": prediction.abstained,
        "because": list(analysis.reasons),
        "novelty": prediction.novelty,
        "seconds": prediction.seconds,
        "outputs": [output.sop_uid for output in outputs],
        "versions": versions(),
    }
