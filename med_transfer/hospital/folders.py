"""Processing for external orchestrators: a folder of DICOM files in, a folder of results out.

mercure names the folders in ``MERCURE_IN_DIR`` and ``MERCURE_OUT_DIR``, reads ``result.json`` and sends the DICOM files
that are in the folder itself; a MONAI application package gets ``HOLOSCAN_INPUT_PATH`` and ``HOLOSCAN_OUTPUT_PATH``, or
the older ``MONAI_`` names.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydicom.dataset import Dataset

from med_transfer.atomic import sha256_of, write_text
from med_transfer.errors import UsageError
from med_transfer.hospital.analysis import Analysis, analyse
from med_transfer.hospital.config import Results
from med_transfer.hospital.result_header import ResultHeader
from med_transfer.hospital.results import basis_of, facts, write_results
from med_transfer.inference import Predictor
from med_transfer.scans.search.series_rules import SeriesRules

VARIABLES = (
    ("MERCURE_IN_DIR", "MERCURE_OUT_DIR"),
    ("HOLOSCAN_INPUT_PATH", "HOLOSCAN_OUTPUT_PATH"),
    ("MONAI_INPUTPATH", "MONAI_OUTPUTPATH"),
)


def folders(environment: Mapping[str, str]) -> tuple[Path, Path]:
    """Input and output folder as named by an orchestrator's environment variables. Raises UsageError."""
    for given, wanted in VARIABLES:
        if given in environment and wanted in environment:
            return Path(environment[given]), Path(environment[wanted])
    pairs = "; ".join(" and ".join(pair) for pair in VARIABLES)
    raise UsageError("no folders are given", where="environment", expected=pairs, action="Or name both folders")


def process(
    predictor: Predictor, images: Path, out: Path, rules: SeriesRules | None = None, settings: Results | None = None
) -> list[Analysis]:
    """Predict every study in a folder; write its result objects and ``result.json``.

    Args:
        predictor: the bundle's predictor.
        images: folder of DICOM files.
        out: folder for the results.
        rules: rules that choose series; None: every usable series.
        settings: which objects to create; None: the defaults.

    Raises:
        ScanAborted: reading took too long or crashed.
        OutputError: a file cannot be written.
    """
    settings = settings or Results()
    analyses = analyse(images, predictor, rules, settings.heat_map)
    studies: dict[str, list[Analysis]] = defaultdict(list)
    for analysis in analyses:
        for uid, own in _by_study(analysis.images):
            studies[uid].append(replace(analysis, images=own))
    entries = [
        _study(predictor, out, _header(predictor, uid, own, settings, rules), own, settings)
        for uid, own in studies.items()
    ]
    result = {"research_use_only": True, "studies": entries, "__mercure_notification": {"text": _in_words(analyses)}}
    write_text(out / "result.json", json.dumps(result, indent=2) + "\n")
    return analyses


def _by_study(images: Sequence[Dataset]) -> list[tuple[str, tuple[Dataset, ...]]]:
    """Images by study UID. A refusal may cover several patients, and none may appear in another's report."""
    studies: dict[str, list[Dataset]] = defaultdict(list)
    for image in images:
        studies[str(image.get("StudyInstanceUID", ""))].append(image)
    return [(uid, tuple(own)) for uid, own in studies.items()] or [("", ())]


def _header(
    predictor: Predictor, study_uid: str, analyses: Sequence[Analysis], settings: Results, rules: SeriesRules | None
) -> ResultHeader:
    """Header of a study's results, with UIDs that the same images, bundle and settings give again, and no others."""
    files = {str(image.SOPInstanceUID): Path(image.filename) for analysis in analyses for image in analysis.images}
    images = sorted((uid, sha256_of(file)) for uid, file in files.items())
    basis = basis_of(images, predictor.identity, settings, rules)
    return ResultHeader.of(
        *(predictor.record, predictor.identity), study_uid=study_uid, basis=basis, revision=1, station="MEDTRANSFER"
    )


def _study(
    predictor: Predictor, out: Path, header: ResultHeader, analyses: Sequence[Analysis], settings: Results
) -> dict[str, object]:
    results = write_results(out, analyses, header, settings, place="")
    return {
        "files": [result.file for result in results],
        "series": [facts(analysis, predictor.identity, header.basis, results) for analysis in analyses],
    }


def _in_words(analyses: Sequence[Analysis]) -> str:
    answers = [a.prediction.predicted or "nothing" if a.prediction.status == "ok" else "not analysed" for a in analyses]
    return f"Research use only: {', '.join(answers)}"
