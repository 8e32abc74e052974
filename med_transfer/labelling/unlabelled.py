"""A bundle's probabilities, novelty and features of unlabelled scans, computed once and cached.

::

    FOLDER/KEY.safetensors      of one scan; KEY from its files, its region, the preprocessing and the bundle's weights
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from med_transfer.bundle.record import require_answer
from med_transfer.cohorts import ArrayCache, Images, cache_key, without_prediction
from med_transfer.cohorts.input_facts import input_facts
from med_transfer.errors import ScanError
from med_transfer.inference import Predictor, ScanToPredict
from med_transfer.predictions.record import Prediction
from med_transfer.progress import Progress, remark
from med_transfer.scans import identity
from med_transfer.scans.isolation import confined, isolated

log = logging.getLogger(__name__)

_ARRAYS = ("features", "probabilities")
_RECORDED = ("novelty", "content_hashes", "series_uid", "study_uid")


@dataclass(frozen=True)
class BundleOutputs:
    """A bundle's outputs for a case.

    Attributes:
        features: of all fold models, joined, [feature].
        probabilities: calibrated, [class].
        novelty: in [0, 1].
        content_hashes: of the voxels of each of its scans.
        series_uid, study_uid: empty if the format has none.
    """

    features: NDArray[np.float32]
    probabilities: NDArray[np.float64]
    novelty: float
    content_hashes: Images
    series_uid: str
    study_uid: str


@dataclass(frozen=True)
class Unlabelled:
    """A scan that could be labelled.

    Attributes:
        scan: its path.
        patient: as in the table, or a pseudonym that is made here.
        patient_in_files: the identifier to compare with the bundle's hashes; it is never written.
        seen: the bundle's outputs.
    """

    scan: str
    patient: str
    patient_in_files: str
    seen: BundleOutputs


def run_bundle_on_scans(
    predictor: Predictor, items: Sequence[ScanToPredict], cache: Path, progress: Progress
) -> tuple[list[Unlabelled], list[Prediction]]:
    """Read all scans and run the bundle on them; returns the usable ones, in order, and the others with their reasons.

    Patients of scans in a folder are identified by PatientID, else by StudyInstanceUID; with neither, each scan counts
    as a separate patient.
    """
    usable, failed = [], []
    pseudonyms: dict[str, str] = {}
    for done, item in enumerate(items, start=1):
        try:
            with confined(item.case.path):
                seen = _run_on_scan(predictor, item, cache)
            identifier = item.case.patient or (isolated(identity, item.series).patient if item.series else "")
            who = identifier or seen.study_uid or f"{item.case.scan} {item.case.series_uid}"
            name = item.case.patient or pseudonyms.setdefault(who, f"unlabelled-{len(pseudonyms) + 1:05d}")
            usable.append(Unlabelled(item.case.scan, name, identifier, seen))
        except ScanError as error:
            remark(log, "left out: %s", error, kind=error.problem)
            failed.append(without_prediction(item.case, error))
        progress("looking at scans", done, len(items))
    return usable, failed


def _run_on_scan(predictor: Predictor, item: ScanToPredict, cache: Path) -> BundleOutputs:
    key = cache_key(item.key(predictor.preprocessing), predictor.identity)
    if entry := ArrayCache(cache).read(key):
        return BundleOutputs(
            **{**entry.arrays, **entry.record, "content_hashes": tuple(entry.record["content_hashes"])}
        )
    scans, region, _ = item.read(predictor.preprocessing.config)
    predictor.record.input_envelope.require_modality(input_facts(scans["scan"]), item.case.path)  # as predict does
    image = predictor.preprocessing(scans, region)[None].to(predictor.device)
    with torch.inference_mode():
        features = predictor.network.fold_model_features(image)
        probabilities, novelty = predictor.network.predict_features(features, image)
    seen = BundleOutputs(
        features=torch.cat(features, dim=1)[0].float().cpu().numpy(),
        probabilities=probabilities[0].numpy(),
        novelty=float(novelty[0]),
        content_hashes=tuple(volume.content_hash for volume in scans.values()),
        series_uid=item.case.series_uid or scans["scan"].provenance.series_uid,
        study_uid=scans["scan"].provenance.study_uid,
    )
    require_answer(item.case.scan, *seen.features, *seen.probabilities, seen.novelty)
    arrays, record = ({name: getattr(seen, name) for name in names} for names in (_ARRAYS, _RECORDED))
    ArrayCache(cache).write(key, arrays, record)
    return seen
