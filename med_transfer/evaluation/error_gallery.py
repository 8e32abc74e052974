"""Choose the errors that a report shows, and draw them with a map of where the network looked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from med_transfer.bundle import BundleRecord
from med_transfer.cohorts import PreparedCohort
from med_transfer.cohorts.preparation import PreparedScan
from med_transfer.explanation import (
    Attention,
    Explanation,
    GradCAM,
    MapCheckSettings,
    Method,
    explain,
    looks_by_attention,
)
from med_transfer.explanation.picture import PictureStyle, few_slices, heat_picture
from med_transfer.explanation.sanity import MAX_CORRELATION
from med_transfer.model.ensemble import Ensemble
from med_transfer.predictions.record import Prediction
from med_transfer.progress import Progress, silent
from med_transfer.report.run_summary import MapChecks, Miss
from med_transfer.scans import geometry

_DRAWS, _RANDOM_REGIONS = 1, 10  # per error; the checks are pooled over the gallery
_PICTURE = PictureStyle("jpeg", height_inches=1.2)  # two fit side by side on the page


@dataclass(frozen=True)
class Error:
    """One wrong call.

    Attributes:
        scan: index of the scan.
        kind: ``miss`` for a class that is present but was not called, ``confident`` for a confident wrong call.
        class_index: the class to explain: the one called wrongly, or if none was, the one missed.
    """

    scan: int
    kind: Literal["miss", "confident"]
    class_index: int


def chosen_errors(
    truth: NDArray[np.bool_], predicted: NDArray[np.bool_], probabilities: NDArray[np.float64], n: int
) -> list[Error]:
    """Choose at most ``n`` errors, each of another scan: half misses, taken from each class in turn, half confident.

    The misses of a class are ordered by ascending probability of that class, the wrong calls by descending probability.

    Args:
        truth, predicted: boolean [scan, class].
        probabilities: [scan, class], in [0, 1].
        n: largest number of errors.
    """
    missed, wrongly = truth & ~predicted, predicted & ~truth
    by_class = [
        sorted(np.flatnonzero(missed[:, c]).tolist(), key=lambda scan, c=c: float(probabilities[scan, c]))
        for c in range(truth.shape[1])
    ]
    misses = [scan for scan in chain.from_iterable(zip_longest(*by_class)) if scan is not None]
    score = np.where(wrongly, probabilities, -1.0).max(axis=1, initial=-1.0)
    confident = sorted(np.flatnonzero(wrongly.any(axis=1)).tolist(), key=lambda scan: -float(score[scan]))
    kinds: dict[int, Literal["miss", "confident"]] = {}
    for scan in misses:
        if len(kinds) < (n + 1) // 2:
            kinds.setdefault(scan, "miss")
    for scan, kind in [*((scan, "confident") for scan in confident), *((scan, "miss") for scan in misses)]:
        if len(kinds) < n:
            kinds.setdefault(scan, kind)
    return [Error(scan, kind, _explained(scan, missed, wrongly, probabilities)) for scan, kind in kinds.items()]


def _explained(scan: int, missed: NDArray, wrongly: NDArray, probabilities: NDArray) -> int:
    among = wrongly[scan] if wrongly[scan].any() else missed[scan]
    return int(np.where(among, probabilities[scan], -1.0).argmax())


def gallery(
    record: BundleRecord,
    ensemble: Ensemble,
    prepared: PreparedCohort,
    predictions: Sequence[Prediction],
    n: int,
    fold_of: Sequence[int] = (),
    progress: Progress = silent,
) -> tuple[list[Miss], MapChecks | None]:
    """Return pictures of at most ``n`` errors with heat maps, and checks of how far the maps can be trusted.

    The map shows attention if slices or tiles are pooled by trained attention, else Grad-CAM. ``row`` of a result is
    the scan's position in ``prepared``, which the caller converts to a row of the table.

    Args:
        record: record of the evaluated bundle.
        ensemble: its network; moved to a GPU if there is one, and afterwards to the CPU.
        prepared: the scans, as the network sees them.
        predictions: predictions of the same scans, in order.
        n: largest number of errors; if 0, or without errors, the result is empty and None.
        fold_of: for validation scans, the fold model of each that did not train on it and is explained; else empty.
        progress: progress callback, called after each map.
    """
    if not n or not predictions:
        return [], None
    probabilities = np.array([[scan.probabilities[name] for name in record.classes] for scan in predictions])
    predicted, truth = _called(record, predictions), prepared.cohort.truth
    errors = chosen_errors(truth, predicted, probabilities, n)
    if not errors:
        return [], None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ensemble = ensemble.to(device).eval()
    method = Attention() if looks_by_attention(ensemble) else GradCAM()
    networks = [ensemble.alone(fold_of[error.scan]) if fold_of else ensemble for error in errors]
    explanations = list(_explained_errors(errors, networks, prepared, method, progress))
    ensemble.cpu()
    misses = []
    for error, explanation in zip(errors, explanations, strict=True):
        picture, through, slices = _picture(record, prepared.scans[error.scan], explanation)
        misses.append(
            Miss(
                row=error.scan,
                kind=error.kind,
                truth=";".join(
                    name for name, present in zip(record.classes, truth[error.scan], strict=True) if present
                ),
                predicted=predictions[error.scan].predicted,
                explained=record.classes[error.class_index],
                probability=float(probabilities[error.scan, error.class_index]),
                picture=picture,
                through=through,
                empty=explanation.heat.empty,
                doubtful=bool(explanation.doubts) and not explanation.heat.empty,
                slices=slices,
            )
        )
    return misses, _checks(record, explanations, method)


def _called(record: BundleRecord, predictions: Sequence[Prediction]) -> NDArray[np.bool_]:
    """Calls [scan, class] as stated in each prediction, since thresholds may differ between scans."""
    named = [one.predicted.split(";") if record.labels.multilabel else [one.predicted] for one in predictions]
    return np.array([[name in names for name in record.classes] for names in named])


def _explained_errors(
    errors: Sequence[Error], networks: Sequence[Ensemble], prepared: PreparedCohort, method: Method, progress: Progress
) -> Iterator[Explanation]:
    for seed, (error, ensemble) in enumerate(zip(errors, networks, strict=True)):
        device = next(ensemble.parameters()).device
        image = torch.from_numpy(prepared.tensors[error.scan].astype(np.float32)).to(device)
        # a seed of its own for each, for the random weights and regions
        checks = MapCheckSettings(draws=_DRAWS, n_random=_RANDOM_REGIONS, seed=seed)
        yield explain(ensemble, image, error.class_index, method, checks)
        progress("pictures of errors", seed + 1, len(errors))


def _picture(
    record: BundleRecord, scan: PreparedScan, explanation: Explanation
) -> tuple[bytes, Literal["region", "peak", "middle"], bool]:
    """JPEG in the patient's proportions, the point its planes pass through, and whether the scan has few slices."""
    preprocessing, voxels = record.preprocessing, scan.tensor[0].astype(np.float32)
    depth, height, width = voxels.shape
    spacing = preprocessing.spacing_mm or scan.voxel_mm
    affine = geometry.grid_affine(preprocessing.orientation, spacing, (0, 0, 0), (depth, height, width))
    window = (float(voxels.min()), float(voxels.max()))
    through = "region" if preprocessing.region == "roi" else "middle" if explanation.heat.empty else "peak"
    point = geometry.to_world_mm(affine, explanation.heat.peak[::-1]) if through == "peak" else (0.0, 0.0, 0.0)
    picture = heat_picture(voxels, explanation.heat.values, affine, window, point, style=_PICTURE)
    return picture, through, few_slices(voxels, affine) is not None


def _checks(record: BundleRecord, explanations: Sequence[Explanation], method: Method) -> MapChecks:
    deletions = [explanation.deletion for explanation in explanations if explanation.deletion is not None]
    correlations = [explanation.sanity.correlation for explanation in explanations if explanation.sanity is not None]
    spacing = record.preprocessing.spacing_mm
    element = explanations[0].heat.element_voxels
    return MapChecks(
        n=len(explanations),
        n_empty=sum(explanation.heat.empty for explanation in explanations),
        element_mm=spacing and (element[0] * spacing[0], element[1] * spacing[1], element[2] * spacing[2]),
        hidden_share=MapCheckSettings.share,
        drop=float(np.mean([deletion.drop for deletion in deletions])) if deletions else None,
        random_drop=float(np.mean([deletion.random_drop for deletion in deletions])) if deletions else None,
        n_no_better=sum(_no_better(explanation) for explanation in explanations),
        correlation=float(np.mean(correlations)) if correlations else None,
        correlation_limit=MAX_CORRELATION,
        method=method.name,
    )


def _no_better(explanation: Explanation) -> bool:
    """Whether no part of the map matters clearly more than others."""
    deletion = explanation.deletion
    return explanation.heat.uniform or (deletion is not None and not deletion.beats_chance)
